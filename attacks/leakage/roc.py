"""How well a score tells members from others: the ROC curve, its area and its low-false-positive end, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from trustsnn.errors import ConfigError
from trustsnn.rng import stream
from trustsnn.statistics import clopper_pearson, placements, wilson

Floats = NDArray[np.float64]
RESAMPLES = 1000


def area(members: Floats, others: Floats) -> dict[str, Any]:
    """The area under the ROC curve, ties counting half, with DeLong's interval (DeLong 1988; Sun & Xu 2014), or Wilson's of the smaller
    group where every pair is ranked alike and DeLong's has no width."""
    m, n = _sizes(members, others)
    of_members, of_others = placements(members, others)
    value = float(of_members.mean())
    variance = sum(float(each.var(ddof=1)) / len(each) if len(each) > 1 else np.inf for each in (of_members, of_others))
    if variance == 0:
        low, high = wilson(round(value * min(m, n)), min(m, n))
    else:
        half = float(ndtri(0.975)) * variance**0.5
        low, high = max(0.0, value - half), min(1.0, value + half)
    return {"value": value, "low": low, "high": high, "members": m, "others": n}


def rates(members: Floats, others: Floats, fprs: Sequence[float], *, seed: int = 0) -> list[dict[str, Any]]:
    """For each false positive rate, the share of members above the score that at most that share of the others exceeds.

    The interval is the wider of two on either side: the bootstrap's over both groups, since the threshold is drawn from the sample too, and
    Clopper-Pearson's at that threshold. "status" is "inconclusive" where the others are fewer than 1 / fpr: no false positive rate
    that low can be seen on them.
    """
    m, n = _sizes(members, others)
    if not all(0 < fpr <= 1 for fpr in fprs):
        raise ConfigError(f"Expected false positive rates in (0, 1], got {list(fprs)}.")
    allowed = np.array([int(fpr * n + 1e-9) for fpr in fprs])
    found = _above(members, others, allowed)
    draws = stream(seed, f"membership/bootstrap/{m}/{n}")
    ranks = np.unique(np.concatenate([members, others]), return_inverse=True)[1].astype(np.int32)
    again = [
        _above(ranks[:m][draws.integers(0, m, m)], ranks[m:][draws.integers(0, n, n)], allowed) / m for _ in range(RESAMPLES)
    ]
    ends = np.quantile(again, [0.025, 0.975], axis=0)
    rows = []
    for fpr, successes, least, most in zip(fprs, found.tolist(), *ends.tolist(), strict=True):
        low, high = clopper_pearson(successes, m)
        rows.append({
            "fpr": fpr, "value": successes / m, "successes": successes, "count": m, "others": n, "low": min(low, least),
            "high": max(high, most), "status": "ok" if n * fpr >= 1 - 1e-9 else "inconclusive",
        })  # fmt: skip
    return rows


def _above(members: NDArray[Any], others: NDArray[Any], allowed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Members above the smallest score that leaves no more than `allowed` of the others above it; all where all others may be."""
    descending = np.sort(others)[::-1]
    thresholds = descending[np.minimum(allowed, len(others) - 1)]
    found = len(members) - np.searchsorted(np.sort(members), thresholds, side="right")
    return np.where(allowed >= len(others), len(members), found)


def _sizes(members: NDArray[Any], others: NDArray[Any]) -> tuple[int, int]:
    if not len(members) or not len(others):
        raise ConfigError(f"Expected members and others, got {len(members)} and {len(others)}.")
    return len(members), len(others)
