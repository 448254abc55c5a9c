"""Natural corruptions of images at five severities, and the accuracy of a model under them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.attacks.corruptions.catalogue import BENCHMARK, CORRUPTIONS, FAMILIES, SEVERITIES
from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.corruptions.evaluate import (
        CorruptionRow,
        MeanCorruptionError,
        evaluate_corruptions,
        mean_corruption_error,
    )

_lazy = lazy_names(
    __name__,
    {
        "CorruptionRow": "evaluate",
        "MeanCorruptionError": "evaluate",
        "evaluate_corruptions": "evaluate",
        "mean_corruption_error": "evaluate",
    },
)

__all__ = [
    "BENCHMARK",
    "CORRUPTIONS",
    "FAMILIES",
    "SEVERITIES",
    "CorruptionRow",
    "MeanCorruptionError",
    "evaluate_corruptions",
    "mean_corruption_error",
]


def __getattr__(name: str) -> Any:
    return _lazy(name)
