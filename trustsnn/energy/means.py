"""Means over samples, and ratios of such means, with their intervals."""

from __future__ import annotations

import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


class Mean(TypedDict):
    """A mean over samples, or a ratio of two, with its 95 % interval, and how many samples there were. What is not known is None: the
    interval of a single sample, and a ratio to 0."""

    value: float | None
    low: float | None
    high: float | None
    count: int


def mean(values: ArrayLike) -> Mean:
    """The mean of one value a sample, with Student's interval."""
    found = np.asarray(values, dtype=np.float64)
    return _figure(float(found.mean()), found - found.mean(), 1.0)


def ratio(after: ArrayLike, before: ArrayLike) -> Mean:
    """The mean of `after` over that of `before`, of the same samples in the same order; the interval is that of the linearised ratio
    (delta method)."""
    a, b = (np.asarray(each, dtype=np.float64) for each in (after, before))
    if b.mean() == 0:
        return {"value": None, "low": None, "high": None, "count": len(a)}
    value = float(a.mean() / b.mean())
    return _figure(value, a - value * b, float(b.mean()))


def _figure(value: float, deviations: np.ndarray[Any, Any], scale: float) -> Mean:
    count = len(deviations)
    if count < 2:
        return {"value": value, "low": None, "high": None, "count": count}
    spread = math.sqrt(float((deviations**2).sum()) / (count - 1) / count) / scale
    half = float(stdtrit(count - 1, 0.975)) * spread
    return {"value": value, "low": max(0.0, value - half), "high": value + half, "count": count}
