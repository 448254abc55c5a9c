"""Accuracy against the number of changes, each drawn several times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t

from trustsnn.statistics import Figure, wilson_of_mean


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
            half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
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
