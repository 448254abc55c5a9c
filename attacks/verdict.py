"""When an evaluation cannot be trusted: typed findings, each with its evidence, threshold and source.

This is the first part of the list: what a single audit sees without extra attacks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

ZERO_GRADIENT_LIMIT = 0.05
ONE_STEP_LEVEL = 0.01


def _finding(kind: str, message: str, evidence: dict[str, Any], threshold: float, source: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "evidence": evidence, "threshold": threshold, "source": source}


def zero_gradients(zero: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Finding where the first input gradient is exactly zero for more than 5 % of the attacked samples [B]."""
    fraction = float(zero.mean()) if len(zero) else 0.0
    if fraction <= ZERO_GRADIENT_LIMIT:
        return []
    return [
        _finding(
            "zero-gradient",
            f"The attack had no direction to follow for {fraction:.1%} of the samples: their gradient was exactly zero. "
            "The surrogate masks the gradient, and the true robustness is lower than measured.",
            {"zero_gradient_fraction": fraction, "count": len(zero)},
            ZERO_GRADIENT_LIMIT,
            "Athalye 2018, Carlini 2019; threshold: trustsnn's own",
        )
    ]


def nonfinite_gradients(bad: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Finding where any input gradient holds NaN or infinity."""
    if not bad.any():
        return []
    return [
        _finding(
            "nonfinite-gradient",
            f"The gradient of {int(bad.sum())} of {len(bad)} samples was not a finite number, so the attack could not use it.",
            {"nonfinite_gradients": int(bad.sum()), "count": len(bad)},
            0,
            "Carlini 2019",
        )
    ]


def one_step_beats_iterative(one_step: NDArray[np.bool_], iterative: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Finding on an iterative attack that breaks fewer samples than one step of the same budget.

    Both arrays say per sample, in the same order, whether the model stays correct. Paired one-sided binomial test on the
    samples that only one of the two breaks (McNemar), at level 0.01.
    """
    only_one_step = int((~one_step & iterative).sum())
    only_iterative = int((one_step & ~iterative).sum())
    if only_one_step <= only_iterative:
        return []
    p_value = float(binomtest(only_one_step, only_one_step + only_iterative, 0.5, alternative="greater").pvalue)
    if p_value >= ONE_STEP_LEVEL:
        return []
    return [
        _finding(
            "one-step-beats-iterative",
            f"One gradient step broke {only_one_step} samples that the iterative attack did not, against {only_iterative} the "
            "other way round. An iterative attack is stronger unless its gradients mislead it.",
            {"broken_by_one_step_only": only_one_step, "broken_by_iterative_only": only_iterative, "p_value": p_value},
            ONE_STEP_LEVEL,
            "Athalye 2018, section 3.1; paired test: trustsnn's own",
        )
    ]


def domain_violated(
    linf: NDArray[np.float32], l2: NDArray[np.float32], norm: str, eps: float, low: float, high: float
) -> list[dict[str, Any]]:
    """Finding where a perturbation left its ball, or a sample the domain [0, 1]."""
    largest = float((linf if norm == "linf" else l2).max())
    if largest <= eps * (1 + 1e-4) + 1e-6 and low >= 0 and high <= 1:
        return []
    return [
        _finding(
            "domain-violated",
            "The attack left its budget or the input domain, so its figure is not about the stated threat.",
            {"largest_perturbation": largest, "eps": eps, "lowest_value": low, "highest_value": high},
            eps,
            "Carlini 2019",
        )
    ]
