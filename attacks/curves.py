"""Robust accuracy against a budget, as curves with bands, from the outcomes of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ConfigError, DataError
from trustsnn.statistics import Median, median, proportion, sign_test, wilson

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Robust accuracy at each budget `at` [M], ascending: `robust` [M] of `count` samples, the share `value` [M] and its
    pointwise 95 % Wilson interval `low`, `high` [M], all in [0, 1]."""

    at: Floats
    robust: NDArray[np.int64]
    count: int
    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class EpsCurve(Curve):
    """Robust accuracy against eps, a step function: each value holds from its eps up to the next. It never rises."""

    median: Median  # infinite where it lies above what was searched


@dataclass(frozen=True)
class Gain:
    """How many more of the same `count` samples a budget `more` breaks than a budget `fewer`: `value` is the difference of the
    two robust accuracies, `low` and `high` its 95 % interval (Newcombe), `p_value` that of the exact McNemar test, two-sided."""

    fewer: float
    more: float
    broken_by_more_only: int
    broken_by_fewer_only: int
    count: int
    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class BudgetCurve:
    """Robust accuracy against a number of steps or restarts; a budget of 0 is the model without an attack.

    `own` counts at each budget the samples that its own run leaves correct, `worst` those that no run up to it breaks, so that
    `worst` never rises. `gains` compares the runs of neighbouring budgets. `robust` [M, N] is the outcome of each run.
    """

    own: Curve
    worst: Curve
    gains: tuple[Gain, ...]
    robust: NDArray[np.bool_]


def robust_curve(smallest: NDArray[Any], largest: float, at: Sequence[float] | None = None) -> EpsCurve:
    """Robust accuracy against eps: the share of the samples with `smallest` > eps, and the median of `smallest`.

    Args:
        smallest: [N], for each sample the smallest eps that breaks it, 0 where it is misclassified without a perturbation and
            infinity where nothing broke it (`SmallestEps.eps`).
        largest: the eps up to which was searched, in input units.
        at: where to read the curve, ascending in [0, largest]; by default 0, each eps at which it falls, and `largest`.
    """
    ordered = np.sort(np.asarray(smallest, dtype=np.float64))
    if ordered.ndim != 1 or len(ordered) == 0 or np.isnan(ordered).any() or ordered[0] < 0:
        raise DataError(f"Expected the smallest eps as numbers [N] of at least 0, N of at least 1, got {smallest!r}.")
    finite = ordered[np.isfinite(ordered)]
    if not math.isfinite(largest) or largest < finite.max(initial=0.0):
        raise ConfigError(f"Expected largest as a finite eps, and no sample broken above it, got {largest}.")
    places = np.unique([0.0, *finite, largest]) if at is None else np.asarray(at, dtype=np.float64)
    if places.ndim != 1 or len(places) == 0 or not (np.diff(places) > 0).all() or not (0 <= places[0] <= places[-1] <= largest):
        raise ConfigError(f"Expected at as ascending eps in [0, {largest:g}], up to which was searched, got {at}.")
    curve = _curve(places, len(ordered) - np.searchsorted(ordered, places, side="right"), len(ordered))
    return EpsCurve(**vars(curve), median=median(ordered.tolist()))


def budget_curve(at: Sequence[float], robust: NDArray[np.bool_]) -> BudgetCurve:
    """The curves of runs on the same samples: `robust` [M, N] says for each budget `at` [M], ascending, and each sample
    whether the model stays correct."""
    budgets, robust = np.asarray(at, dtype=np.float64), np.asarray(robust)
    if robust.ndim != 2 or robust.dtype != np.bool_ or robust.shape[1] == 0 or len(robust) != len(budgets) or len(budgets) == 0:
        raise DataError(f"Expected robust as bool [{len(budgets)}, N], N of at least 1, got {robust.dtype} {list(robust.shape)}.")
    if not (np.diff(budgets) > 0).all():
        raise ConfigError(f"Expected ascending budgets, got {list(at)}.")
    worst, count = np.logical_and.accumulate(robust), robust.shape[1]
    pairs = zip(budgets[:-1], budgets[1:], robust[:-1], robust[1:], strict=True)
    return BudgetCurve(
        own=_curve(budgets, robust.sum(1), count),
        worst=_curve(budgets, worst.sum(1), count),
        gains=tuple(_gain(float(fewer), float(more), left, right) for fewer, more, left, right in pairs),
        robust=robust,
    )


def _curve(at: Floats, robust: NDArray[np.int64], count: int) -> Curve:
    figures = [proportion(int(successes), count) for successes in robust]
    value, low, high = np.array([(each["value"], each["low"], each["high"]) for each in figures]).T
    return Curve(at, robust.astype(np.int64), count, value, low, high)


def _gain(fewer: float, more: float, left: NDArray[np.bool_], right: NDArray[np.bool_]) -> Gain:
    only_more, only_fewer = int((left & ~right).sum()), int((~left & right).sum())
    p_value = sign_test(only_more, only_fewer)
    value, low, high = paired_difference(int((left & right).sum()), only_more, only_fewer, int((~left & ~right).sum()))
    return Gain(fewer, more, only_more, only_fewer, len(left), value, low, high, p_value)


def paired_difference(both: int, first_only: int, second_only: int, neither: int) -> tuple[float, float, float]:
    """How much more often the first of two outcomes of the same samples holds than the second: the difference in [-1, 1] and
    its 95 % interval (method 10 of Newcombe 1998, Statistics in Medicine 17, 2635-2650)."""
    count = both + first_only + second_only + neither
    first, second = both + first_only, both + second_only
    (low1, high1), (low2, high2) = wilson(first, count), wilson(second, count)
    share1, share2 = first / count, second / count
    product = both * neither - first_only * second_only
    spread = math.sqrt(first * (count - first) * second * (count - second))
    correlation = (max(product - count / 2, 0.0) if product > 0 else product) / spread if spread else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    value = (first_only - second_only) / count
    return value, value - reach(share1 - low1, high2 - share2), value + reach(high1 - share1, share2 - low2)
