"""Outcomes that are kept as they come, so that a comparison of hours goes on where it was killed."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.canonical import sha256_of
from trustsnn.files import write_atomically

Arrays = dict[str, NDArray[Any]]


class Outcomes:
    """A folder with one .npz for each thing that was computed, named by the SHA-256 of what decides it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, decides: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """The arrays that `compute` gives and the "seconds" that it took, from the folder if they are there.

        `decides` is JSON: the model's hash, the samples, the attack and its settings, the seed, and whatever else the arrays
        depend on.
        """
        path = self._path(decides)
        if not path.exists():
            begun = time.perf_counter()
            arrays = compute()
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, seconds=np.array(time.perf_counter() - begun), **arrays)
            write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}

    def has(self, decides: Mapping[str, Any]) -> bool:
        """Whether that was computed already."""
        return self._path(decides).exists()

    def _path(self, decides: Mapping[str, Any]) -> Path:
        return self.folder / f"{sha256_of(dict(decides))}.npz"
