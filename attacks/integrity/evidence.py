"""What a detector of backdoors says of each class of a model, and how far a class stands out from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAD = 1.4826  # makes the median absolute deviation of normal values their standard deviation


@dataclass(frozen=True)
class Evidence:
    """What one detector found.

    detector: its name; `statistic` says what `values`, one a class, are, and in which unit.
    index: how far each class stands out, in the same order; the larger the more suspicious.
    threshold: the index above which a class is a hit, None where there is no such bound, and `source` where it comes from.
    problem: why nothing follows from it; None where something does.
    arrays: masks, patterns and the like, [K, ...].
    reached: classes that a trigger was found for; None where none is looked for.
    """

    detector: str
    statistic: str
    values: tuple[float, ...]
    index: tuple[float, ...]
    threshold: float | None
    source: str
    problem: str | None = None
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    reached: tuple[bool, ...] | None = None

    @property
    def largest(self) -> float:
        """The index of the class that stands out most."""
        return max(self.index)

    @property
    def hits(self) -> tuple[int, ...]:
        """The classes above the threshold, the most suspicious first; none where there is a problem or no
        threshold."""
        if self.problem is not None or self.threshold is None:
            return ()
        order = sorted(range(len(self.index)), key=lambda each: -self.index[each])
        return tuple(each for each in order if self.index[each] > self.threshold)

    def against(self, threshold: float, source: str) -> Evidence:
        """The same under another threshold."""
        return replace(self, threshold=threshold, source=source)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the arrays."""
        return {
            "detector": self.detector, "statistic": self.statistic, "values": list(self.values), "index": list(self.index),
            "threshold": self.threshold, "source": self.source, "hits": list(self.hits), "problem": self.problem,
            "reached": None if self.reached is None else list(self.reached),
        }  # fmt: skip


def outliers(values: NDArray[np.float64], floor: float = 0.0) -> tuple[float, ...]:
    """(v - median) / (1.4826 MAD) of each value: the anomaly index, signed. The deviation is `floor` at least, so that values that are
    all but equal do not stand out by the smallness of their spread; 0 for a value that equals the median."""
    centre = np.median(values)
    spread = max(MAD * float(np.median(np.abs(values - centre))), floor, float(np.finfo(np.float64).tiny))
    return tuple(float(each) for each in np.clip((values - centre) / spread, -1e6, 1e6))
