"""What a network costs: operations counted on real data, and energy by published tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.energy.conventions import CONVENTIONS, energies
    from trustsnn.energy.counts import Counts, count
    from trustsnn.energy.neurobench import metrics
    from trustsnn.energy.tally import LayerCounts

_lazy = lazy_names(
    __name__,
    {
        "CONVENTIONS": "conventions",
        "Counts": "counts",
        "LayerCounts": "tally",
        "count": "counts",
        "energies": "conventions",
        "metrics": "neurobench",
    },
)

__all__ = ["CONVENTIONS", "Counts", "LayerCounts", "count", "energies", "metrics"]


def __getattr__(name: str) -> Any:
    return _lazy(name)
