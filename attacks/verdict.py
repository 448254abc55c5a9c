"""When an evaluation cannot be trusted: typed findings, each with its evidence, threshold and source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.statistics import at_least

ZERO_GRADIENT_LIMIT = 0.05
LEVEL = 0.01  # of the paired tests below
MORE_STEPS_LIMIT = 0.005
BLACK_BOX_LIMIT = 0.01
MASKING_LIMIT = 0.25
SEARCHED_AT_LEAST = 8  # samples that a search breaks, before gradients are held against it
TIE_LIMIT = 0.01
UNBOUNDED_LIMIT = 0.01


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


def _more_often(broken: NDArray[np.bool_], broken_otherwise: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Samples that only the first broke, that only the second broke, and the p-value of the first breaking more
    (McNemar: a one-sided binomial test on these samples)."""
    only, only_otherwise = int((broken & ~broken_otherwise).sum()), int((~broken & broken_otherwise).sum())
    if only <= only_otherwise:
        return only, only_otherwise, 1.0
    return only, only_otherwise, at_least(only, only + only_otherwise, 0.5)


def one_step_beats_iterative(one_step: NDArray[np.bool_], iterative: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Finding on an iterative attack that breaks fewer samples than one step of the same budget.

    Both arrays say per sample, in the same order, whether the model stays correct. Paired test at level 0.01.
    """
    only_one_step, only_iterative, p_value = _more_often(~one_step, ~iterative)
    if p_value >= LEVEL:
        return []
    return [
        _finding(
            "one-step-beats-iterative",
            f"One gradient step broke {only_one_step} samples that the iterative attack did not, against {only_iterative} the "
            "other way round. An iterative attack is stronger unless its gradients mislead it.",
            {"broken_by_one_step_only": only_one_step, "broken_by_iterative_only": only_iterative, "p_value": p_value},
            LEVEL,
            "Athalye 2018, section 3.1; paired test: trustsnn's own",
        )
    ]


def network_beats_chip(network: NDArray[np.bool_], chip: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Finding on an attack made on a chip that breaks fewer samples there than what the same attack made on the network without
    hardware. Both arrays say per sample whether that chip stays correct. Paired test at level 0.01."""
    only_network, only_chip, p_value = _more_often(~network, ~chip)
    if p_value >= LEVEL:
        return []
    return [
        _finding(
            "network-beats-chip",
            f"Samples made on the network without hardware broke {only_network} on the chip that those made on that very chip did not, "
            f"against {only_chip} the other way round. The chip's own gradients mislead.",
            {"broken_by_network_only": only_network, "broken_by_chip_only": only_chip, "p_value": p_value},
            LEVEL,
            "Athalye 2018, section 3.1; paired test: trustsnn's own",
        )
    ]


def more_steps_still_gain(fewer: NDArray[np.bool_], more: NDArray[np.bool_], steps: tuple[int, int]) -> list[dict[str, Any]]:
    """Finding where twice the steps of the same attack break more than half a point more samples, in a paired test at
    level 0.01. Both arrays say per sample whether the model stays correct; `steps` are those of the two."""
    only_more, only_fewer, p_value = _more_often(~more, ~fewer)
    gain = (only_more - only_fewer) / max(1, len(more))
    if gain <= MORE_STEPS_LIMIT or p_value >= LEVEL:
        return []
    return [
        _finding(
            "more-steps-still-gain",
            f"With {steps[1]} steps instead of {steps[0]} the same attack broke {gain:.1%} more of the samples: it had not "
            "converged, and still more steps may break more.",
            {"steps": list(steps), "gain": gain, "p_value": p_value, "count": len(more)},
            MORE_STEPS_LIMIT,
            "Pintor 2022, Carlini 2019; threshold: half a point",
        )
    ]


def masked(left: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Finding where the model's own surrogate hides what breaks it: of samples that an attack through other estimators broke, the
    own surrogate leaves more than a quarter correct with twice the budget (binomial test at level 0.01). `left` says for each
    of these samples whether it stays correct."""
    standing = int(left.sum())
    p_value = at_least(standing, len(left), MASKING_LIMIT)
    if p_value >= LEVEL:
        return []
    return [
        _finding(
            "gradient-masking",
            f"The model's own surrogate hides what breaks the model: of {len(left)} samples that fall within the budget, an attack "
            f"through that surrogate leaves {standing} correct with twice the budget. A robustness measured through that gradient "
            "alone is worth nothing here.",
            {"left_at_twice_the_budget": standing, "count": len(left), "p_value": p_value},
            MASKING_LIMIT,
            "Athalye 2018; test and threshold: trustsnn's own",
        )
    ]


def beats_white_box(kind: str, tried: int, broken: int, count: int) -> list[dict[str, Any]]:
    """Finding where an attack without the model's gradients broke samples that every attack with them left standing: more
    than a point of all `count` samples (binomial test at level 0.01). `kind` is "black-box" or "transfer"; it `tried` the survivors
    and broke some."""
    p_value = at_least(broken, count, BLACK_BOX_LIMIT)
    if p_value >= LEVEL:
        return []
    how = "from the model's outputs alone" if kind == "black-box" else "by way of its ANN twin"
    return [
        _finding(
            f"{kind}-beats-white-box",
            f"An attack {how} broke {broken} of the {tried} samples that all attacks through the model's gradients had left "
            "standing. Those gradients mislead, or are followed too little.",
            {"tried": tried, "broken": broken, "count": count, "share": broken / count, "p_value": p_value},
            BLACK_BOX_LIMIT,
            "Athalye 2018, section 3.1; Carlini 2019; threshold: one point",
        )
    ]


def search_beats_white_box(standing: int, count: int, queries: int, eps: float) -> list[dict[str, Any]]:
    """Finding where attacks through the model's gradients leave more than a quarter (binomial test at level 0.01) of the `count`
    samples standing that a random search of so many `queries` breaks within the same `eps`; none on fewer than 8."""
    enough = count >= SEARCHED_AT_LEAST
    p_value = at_least(standing, count, MASKING_LIMIT) if enough else 1.0
    if p_value >= LEVEL:
        return []
    return [
        _finding(
            "black-box-beats-white-box",
            f"Of {count} samples that a random search of {queries} queries breaks within eps {eps:.3g}, attacks through the model's "
            f"gradients leave {standing} correct within the same eps. Those gradients mislead, at every eps.",
            {"left_by_white_box": standing, "count": count, "queries": queries, "eps": eps, "p_value": p_value},
            MASKING_LIMIT,
            "Athalye 2018, section 3.1; Carlini 2019; test and threshold: trustsnn's own",
        )
    ]


def unbounded_attack_fails(correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Finding where a model stays correct although the attack may turn every input into any other (eps = 1 in L-inf)."""
    left = float(correct.mean()) if len(correct) else 0.0
    if left <= UNBOUNDED_LIMIT:
        return []
    return [
        _finding(
            "unbounded-attack-fails",
            f"With no bound on the perturbation the attack still left {left:.1%} of the samples correct. An attack that works "
            "leaves none.",
            {"accuracy": left, "count": len(correct)},
            UNBOUNDED_LIMIT,
            "Athalye 2018, section 3.1; Carlini 2019; threshold: one point",
        )
    ]


def tied(ties: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Finding where the highest two logits of clean samples are equal: losses are flat there, and the predicted class is a
    matter of order. `ties` says so per sample."""
    share = float(ties.mean()) if len(ties) else 0.0
    if share <= TIE_LIMIT:
        return []
    return [
        _finding(
            "tied-logits",
            f"The two highest logits of {share:.1%} of the samples are exactly equal. Which class then counts as predicted is "
            "chance, and attack losses are flat. Read the membrane out instead of spike counts, or take more time steps.",
            {"share": share, "count": len(ties)},
            TIE_LIMIT,
            "trustsnn's own: logits that are spike counts have T + 1 levels",
        )
    ]


def input_rounded(elsewhere: NDArray[np.bool_], levels: int, tests: int) -> list[dict[str, Any]]:
    """Finding where rounding pixels to `levels` levels changed the output of no sample, and rounding them as coarsely elsewhere
    that of so many that it is no chance: the model rounds its input there itself (sign test at level 0.01, each p times `tests`).

    Args:
        elsewhere: for each sample whether its output changed by rounding elsewhere.
        levels: of a pixel.
        tests: numbers of levels that were tried.
    """
    many = int(elsewhere.sum())
    p_value = min(1.0, tests * 0.5**many)
    if p_value >= LEVEL:
        return []
    return [
        _finding(
            "input-rounded",
            f"Rounding pixels to {levels} levels changed not one output of {len(elsewhere)} samples, and rounding them as coarsely "
            f"elsewhere changed {many}: the model rounds its input inside, or codes it into times of spikes, so its gradient is not "
            "that of the function it computes.",
            {"levels": levels, "changed_elsewhere": many, "count": len(elsewhere), "p_value": p_value},
            LEVEL,
            "Guo 2018 as broken by Athalye 2018; trustsnn's own test",
        )
    ]


def domain_violated(largest: float, eps: float, low: float, high: float) -> list[dict[str, Any]]:
    """Finding where the largest perturbation, in the norm of the threat, left the ball of radius `eps`, or a value the domain
    [0, 1]."""
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
