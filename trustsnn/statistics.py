"""Figures with their count and interval: no proportion leaves this project without both.

scipy.special has what is needed of these distributions; every command would wait most of a second for scipy.stats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, betaincinv, ndtri

Floats = NDArray[np.float64]


class Figure(TypedDict):
    """A proportion: value and 95 % interval in [0, 1], and the count that it rests on."""

    value: float
    successes: int
    count: int
    low: float
    high: float


def wilson(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), both ends in [0, 1]."""
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"expected 0 <= successes <= count and count > 0, got {successes} of {count}")
    z = float(ndtri(0.5 + confidence / 2))
    rate = successes / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (rate * (1 - rate) / count + z * z / (4 * count * count)) ** 0.5
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return low, high


def wilson_of_mean(mean: float, count: int) -> tuple[float, float]:
    """95 % interval of a mean of `count` values in [0, 1], both ends in [0, 1]: Wilson's for as many successes as the values add
    up to, rounded outwards. Such a mean varies no more than a proportion does."""
    total = min(count * mean, count)
    return wilson(math.floor(total), count)[0], wilson(min(math.ceil(total), count), count)[1]


def clopper_pearson(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson 1934) interval of a proportion."""
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"expected 0 <= successes <= count and count > 0, got {successes} of {count}")
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, count - successes + 1, tail))
    high = 1.0 if successes == count else float(betaincinv(successes + 1, count - successes, 1 - tail))
    return low, high


def at_least(successes: int, count: int, probability: float) -> float:
    """The chance of `successes` or more of `count` where each has this probability: the p-value of a one-sided binomial test."""
    return float(bdtrc(successes - 1, count, probability)) if successes else 1.0


def sign_test(one: int, other: int) -> float:
    """The exact two-sided p-value of so many signs of two kinds that are equally likely, which is McNemar's test of the samples where
    two outcomes differ. 1 where there are none."""
    return min(1.0, 2 * float(bdtr(min(one, other), one + other, 0.5)))


def proportion(successes: int, count: int) -> Figure:
    """The figure `successes / count` with its 95 % Wilson interval."""
    low, high = wilson(successes, count)
    return {"value": successes / count, "successes": int(successes), "count": int(count), "low": low, "high": high}


def placements(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    """The share of `second` [M] below each of `first` [N], and of `first` above each of `second`, ties counted half: shapes [N] and
    [M]. The mean of either is the area under the ROC curve; their variances give DeLong's (1988) of it."""

    def below(values: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]) -> Floats:
        ordered = np.sort(others)
        return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))

    return below(first, second), 1 - below(second, first)


class Median(NamedTuple):
    """A median with its 95 % interval."""

    value: float
    low: float
    high: float


def median(ordered: Sequence[float]) -> Median:
    """The (lower) median of ascending values, at least one, none below 0. Its interval is between two order statistics, after
    the binomial distribution, whatever the distribution of the values; with 5 values or fewer it is all of [0, infinity]."""
    count = len(ordered)
    # Fewer than `rank` of the values lie below the median in at most 2.5 % of cases.
    rank = int(np.searchsorted(bdtr(np.arange(count + 1), count, 0.5), 0.025))
    middle = float(ordered[(count - 1) // 2])
    return Median(middle, float(ordered[rank - 1]), float(ordered[count - rank])) if rank else Median(middle, 0.0, math.inf)
