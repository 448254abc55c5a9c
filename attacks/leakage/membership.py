"""Membership inference from what a target and shadow models say of each sample: scores, larger where membership is likelier.

Arrays: `target` [N, D] is a feature of N samples in the target model, `shadows` [S, N, D] the same in S shadow models, `inside` [S, N]
whether a shadow model was trained on a sample. A probability stands in for a feature where an attack needs one: `target` [N] and `shadows` [S, N],
the softmax of the label. No score reads who is a member.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from trustsnn.errors import ConfigError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST = 2  # shadow models on either side of a sample, without which a spread is none


def logit_of(probability: Floats) -> Floats:
    """log(p / (1 - p)), in double precision: nearly normal over models (Carlini 2022, IV-C)."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-45, None)
    return np.asarray(np.log(p) - np.log(np.clip(1 - p, 1e-45, None)))


def loss_threshold(target: Floats) -> Floats:
    """log p: the smaller the loss, the likelier a member (Yeom 2018). [N]"""
    return np.asarray(np.log(np.clip(target, 1e-45, None)))


def attack_p(target: Floats, population: Floats) -> Floats:
    """The share of the population [Z], which the target has not seen, that it is less sure of (Ye 2022, Attack-P). [N]"""
    ordered = np.sort(population)
    return np.searchsorted(ordered, target, side="right") / len(ordered)


def attack_r(target: Floats, shadows: Floats, inside: Bools) -> Floats:
    """The share of the shadow models without the sample that are less sure of it than the target (Ye 2022, Attack-R). [N]"""
    _enough(inside, needs_in=False)
    return np.asarray(np.where(inside, 0, target >= shadows).sum(0) / (~inside).sum(0))


def lira(target: Floats, shadows: Floats, inside: Bools, *, spread: str = "pooled") -> Floats:
    """The log-likelihood ratio of the target's feature under normal distributions over the shadow models with and without the sample
    (Carlini 2022, algorithm 1; centres are medians, as the authors' code has them). [N]

    Args:
        spread: "pooled" takes one covariance for all samples on either side, of the deviations from their centres, which few shadow models
            can bear; "per-sample" takes a variance of each sample's own and entry of the feature.

    Raises:
        ConfigError: a sample has fewer than `LEAST` shadow models on a side.
    """
    _enough(inside, needs_in=True)
    return _log_likelihood(target, shadows, inside, spread) - _log_likelihood(target, shadows, ~inside, spread)


def lira_offline(target: Floats, shadows: Floats, inside: Bools, *, spread: str = "pooled") -> Floats:
    """(s - centre) / spread of the shadow models without the sample, one-sided (Carlini 2022, equation 4), for a feature with one
    entry, larger in members. [N]"""
    _enough(inside, needs_in=False)
    if target.shape[1] != 1:
        raise ConfigError(f"Expected a feature with 1 entry for the offline attack, got {target.shape[1]}.")
    centre, deviations = _centred(shadows, ~inside)
    return np.asarray((target - centre)[:, 0] / np.sqrt(_variance(deviations, ~inside, spread))[..., 0])


def rmia_ratio(target: Floats, shadows: Floats, inside: Bools, *, online: bool, a: float = 0.3) -> Floats:
    """p(x) / P(x), by which RMIA ranks the samples (Zarifzadeh 2024, equations 5 and 10). [N]

    P(x) is the mean probability over the shadow models without x, moved towards one with x: (1 + a) / 2 mean_out + (1 - a) / 2; `online` takes
    the mean of those with and those without x instead.
    """
    _enough(inside, needs_in=online)
    out = np.where(inside, 0, shadows).sum(0) / (~inside).sum(0)
    with_x = np.where(inside, shadows, 0).sum(0) / np.maximum(inside.sum(0), 1)
    marginal = (out + with_x) / 2 if online else (1 + a) / 2 * out + (1 - a) / 2
    return np.asarray(target / np.maximum(marginal, 1e-45))


def rmia(ratio: Floats, of_population: Floats, *, gamma: float = 1.0) -> Floats:
    """The share of the population z, which no model has seen, with [p(x) / P(x)] / [p(z) / P(z)] of at least `gamma` (Zarifzadeh 2024,
    equation 4), from the ratios [N] and [Z]. It grows with the ratio, but ties where a small population ends. [N]"""
    others = np.sort(of_population)
    return np.searchsorted(others, ratio / gamma, side="right") / len(others)


def _enough(inside: Bools, *, needs_in: bool) -> None:
    least = int(min((~inside).sum(0).min(), inside.sum(0).min() if needs_in else len(inside)))
    if least < LEAST:
        side = "with and without" if needs_in else "without"
        raise ConfigError(
            f"Expected at least {LEAST} shadow models {side} each sample, got {least} of {len(inside)}. Train more of them (--shadows)."
        )


def _centred(values: Floats, rows: Bools) -> tuple[Floats, Floats]:
    """The median [N, D] over the shadow models that `rows` [S, N] takes, and their deviations from it [S, N, D], NaN elsewhere."""
    kept = np.where(rows[..., None], values, np.nan)
    centre = np.nanmedian(kept, 0)
    return centre, kept - centre


def _variance(deviations: Floats, rows: Bools, spread: str) -> Floats:
    if spread == "per-sample":
        mean = np.nanmean(deviations, 0)
        return np.asarray(np.nanmean((deviations - mean) ** 2, 0) + 1e-30)
    if spread != "pooled":
        raise ConfigError(f"Expected a spread of 'pooled' or 'per-sample', got {spread!r}.")
    free = rows.sum() - rows.shape[1]  # a centre a sample
    return np.asarray(np.nansum(deviations**2, (0, 1)) / max(1, free) + 1e-30)


def _log_likelihood(target: Floats, shadows: Floats, rows: Bools, spread: str) -> Floats:
    centre, deviations = _centred(shadows, rows)
    if spread == "pooled" and target.shape[1] > 1:
        kept = deviations[rows]
        covariance = kept.T @ kept / max(1, rows.sum() - rows.shape[1])
        covariance += np.eye(len(covariance)) * (1e-6 * np.trace(covariance) / len(covariance) + 1e-30)
        apart = target - centre
        distance = np.einsum("nd,nd->n", apart, np.linalg.solve(covariance, apart.T).T)
        return np.asarray(-0.5 * (distance + np.linalg.slogdet(covariance)[1] + len(covariance) * np.log(2 * np.pi)))
    return np.asarray(norm.logpdf(target, centre, np.sqrt(_variance(deviations, rows, spread))).sum(1))
