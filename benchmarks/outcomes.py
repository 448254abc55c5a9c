"""Outcomes that are kept as they come, so that a comparison of hours goes on where it was killed."""

from __future__ import annotations

import io
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
from trustsnn.files import write_atomically
from trustsnn.models import SpikingNetwork
from trustsnn.training import TrainConfig, train

Arrays = dict[str, NDArray[Any]]


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
