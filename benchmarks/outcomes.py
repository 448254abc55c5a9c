"""Outcomes that are kept as they come, so that a comparison of hours goes on where it was killed."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trustsnn.canonical import sha256_of
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.files import append_line, write_atomically
from trustsnn.models import SpikingNetwork
from trustsnn.training import TrainConfig, train

Arrays = dict[str, NDArray[Any]]


class Lines:
    """A file of JSON lines, one for each thing that was computed: what decides it, and its arrays of truth values or numbers [N].

    It is small enough to be published beside a table that is made of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {sha256_of(told["decides"]): told["arrays"] for told in map(json.loads, lines)}

    def get(self, decides: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """The arrays that `compute` gives, from the file if they are there. `decides` is JSON."""
        key = sha256_of(dict(decides))
        if key not in self.known:
            self.known[key] = {name: _told(array) for name, array in compute().items()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, json.dumps({"decides": dict(decides), "arrays": self.known[key]}, sort_keys=True))
        return {name: _array(told) for name, told in self.known[key].items()}

    def has(self, decides: Mapping[str, Any]) -> bool:
        """Whether that was computed already."""
        return sha256_of(dict(decides)) in self.known


def _told(array: NDArray[Any]) -> Any:
    """Truth values as a text of 0 and 1, numbers to six digits, None for infinity."""
    if array.dtype == bool:
        return "".join("01"[value] for value in array.tolist())
    numbers = [float(f"{value:.6g}") if math.isfinite(value) else None for value in array.reshape(-1).tolist()]
    return numbers if array.ndim else numbers[0]


def _array(told: Any) -> NDArray[Any]:
    if isinstance(told, str):
        return np.array([value == "1" for value in told])
    return np.array([math.inf if value is None else value for value in told] if isinstance(told, list) else told)


class Outcomes:
    """A folder with one .npz for each thing that was computed, named by the SHA-256 of what decides it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, decides: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """The arrays that `compute` gives, the "seconds" that it took and its "processor" time, from the folder if they are there.

        `decides` is JSON: the model's hash, the samples, the attack and its settings, the seed, and whatever else the arrays
        depend on.
        """
        path = self._path(decides)
        if not path.exists():
            begun, spent = time.perf_counter(), time.process_time()
            arrays = compute()
            took = {"processor": time.process_time() - spent, "seconds": time.perf_counter() - begun}
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **{**{k: np.array(v) for k, v in took.items()}, **arrays})
            write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}

    def trained(
        self,
        model: SpikingNetwork,
        data: Dataset,
        config: TrainConfig,
        fit: Callable[[SpikingNetwork, Dataset, TrainConfig], Any] = train,
        **also: Any,
    ) -> tuple[SpikingNetwork, float]:
        """`model` in eval mode after `fit`, and the processor seconds that it took, from the folder if they are there. `also` is JSON: what
        else decides the weights."""
        decides = {"start": model_hash(model), "training": asdict(config), "data": data.samples_sha256}

        def compute() -> Arrays:
            fit(model, data, config)
            return {name: tensor.numpy() for name, tensor in model.state_dict().items()}

        kept = self.get({**decides, "threads": torch.get_num_threads(), **also}, compute)
        model.load_state_dict({name: torch.from_numpy(kept[name]) for name in model.state_dict()})
        return model.eval(), float(kept["processor"])

    def has(self, decides: Mapping[str, Any]) -> bool:
        """Whether that was computed already."""
        return self._path(decides).exists()

    def _path(self, decides: Mapping[str, Any]) -> Path:
        return self.folder / f"{sha256_of(dict(decides))}.npz"


def kept(folder: Path, name: str, decides: Mapping[str, Any], run: Callable[[Path], object]) -> dict[str, Any]:
    """The JSON file `name` that `run` leaves last in a folder of its own, which is named by what decides it; from there if it is there."""
    out = folder / sha256_of(dict(decides))[:16]
    if not (out / name).exists():
        run(out)
    record: dict[str, Any] = json.loads((out / name).read_text())
    return record
