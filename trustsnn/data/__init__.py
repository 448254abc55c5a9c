"""Data sets: loaders, content hashes, stable sample ids and simulated events. No torch; numpy only once data is read."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trustsnn.data.registry import load, names, splits

if TYPE_CHECKING:
    from trustsnn.data.arrays import from_arrays as from_arrays
    from trustsnn.data.dataset import Dataset as Dataset
    from trustsnn.data.events import Camera as Camera
    from trustsnn.data.events import simulate as simulate
    from trustsnn.data.events import simulate_frames as simulate_frames

_LAZY = {
    "Dataset": "trustsnn.data.dataset",
    "from_arrays": "trustsnn.data.arrays",
    "Camera": "trustsnn.data.events",
    "simulate": "trustsnn.data.events",
    "simulate_frames": "trustsnn.data.events",
}

__all__ = ["Camera", "Dataset", "from_arrays", "load", "names", "simulate", "simulate_frames", "splits"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'trustsnn.data' has no attribute {name!r}")
