"""Accuracy against the number of changes, each drawn several times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from trustsnn.errors import ConfigError
from trustsnn.statistics import Figure, wilson_of_mean

Amount = int | float
"""A whole number of faults, or a share in [0, 1] of what there is: 1 is one fault, 1.0 are all."""

SHARES: tuple[Amount, ...] = (0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def numbers(amounts: Sequence[Amount], of: int) -> list[int]:
    """The amounts as numbers of `of` places, ascending and each once; a share above 0 is at least one, and none is more than all.

    Raises:
        ConfigError: no amounts, a number below 0, or a share that is not in [0, 1].
    """
    good = [0 <= each <= (1 if isinstance(each, float) else math.inf) for each in amounts]
    if not good or not all(good):
        raise ConfigError(f"Expected numbers of faults of at least 0, or shares in [0, 1] such as 0.01, got {list(amounts)}.")
    found = [each if isinstance(each, int) else max(round(each * of), int(each > 0)) for each in amounts]
    return sorted({min(each, of) for each in found})


@dataclass(frozen=True)
class Band:
    """The accuracies under `count` changes, one figure a draw, each on the same samples."""

    count: int
    figures: tuple[Figure, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the mean over the draws with its 95 % interval, the lowest and the highest, and every figure. The interval covers
        Student's over the draws and Wilson's over the samples, which the draws share."""
        values = [figure["value"] for figure in self.figures]
        mean = statistics.fmean(values)
        low, high = wilson_of_mean(mean, self.figures[0]["count"])
        if len(values) > 1:
            half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
            low, high = max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))
        return {
            "count": self.count,
            "mean": {"value": mean, "low": low, "high": high, "count": len(values)},
            "lowest": min(values),
            "highest": max(values),
            "figures": [dict(figure) for figure in self.figures],
        }


def doubling(most: int) -> tuple[int, ...]:
    """0, 1, 2, 4, ... and `most`."""
    return tuple(sorted({0, most, *(1 << power for power in range(most.bit_length()))}))


def by_count(counts: Sequence[int], columns: Sequence[Sequence[Figure]]) -> tuple[Band, ...]:
    """The bands of some counts from a column of figures a draw, one a count."""
    return tuple(Band(count, figures) for count, figures in zip(counts, zip(*columns, strict=True), strict=True))
