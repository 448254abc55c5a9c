"""Random draws that depend on (seed, task, sample id) and on nothing else.

Each sample has its own counter-based stream (Philox) keyed by SHA-256(seed, task, sample id). Batch size, order of the
samples, shards and a resumed run therefore never change what is drawn for a sample.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


_PADDING = "\0padding"


def stream(seed: int, task: str, sample_id: str = "") -> np.random.Generator:
    """The Philox generator of one (seed, task, sample id)."""
    return np.random.Generator(np.random.Philox(key=_key(seed, task, sample_id)))


def _key(seed: int, task: str, sample_id: str) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}\x1f{task}\x1f{sample_id}".encode()).digest()
    return np.frombuffer(digest[:16], dtype=np.uint64)


@dataclass(frozen=True)
class Draws:
    """The random draws of a batch: one stream a sample, in the order of `ids`."""

    seed: int
    task: str
    ids: tuple[str, ...]

    def child(self, *names: object) -> Draws:
        """The draws of a sub-task of the same samples, such as one step of one restart."""
        return replace(self, task="/".join([self.task, *map(str, names)]))

    def select(self, indices: Sequence[int]) -> Draws:
        """The same task for some of the samples."""
        return replace(self, ids=tuple(self.ids[i] for i in indices))

    def padded(self, size: int) -> Draws:
        """The same padded to `size` rows, for which nothing is drawn (zeros)."""
        return replace(self, ids=self.ids + (_PADDING,) * (size - len(self.ids)))

    def uniform(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Uniform draws in [0, 1), float32, shape [B, *shape]."""
        return self._draw(lambda generator, out: generator.random(dtype=np.float32, out=out), shape)

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Standard normal draws, float32, shape [B, *shape]."""
        return self._draw(lambda generator, out: generator.standard_normal(dtype=np.float32, out=out), shape)

    def _draw(self, draw: Callable[[np.random.Generator, np.ndarray], object], shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        values = np.zeros((len(self.ids), math.prod(shape)), dtype=np.float32)
        bits = np.random.Philox(key=0)  # one for all samples: to make it takes longer than most draws
        generator, start = np.random.Generator(bits), bits.state
        for row, sample_id in enumerate(self.ids):
            if sample_id != _PADDING:
                start["state"]["key"] = _key(self.seed, self.task, sample_id)
                bits.state = start
                draw(generator, values[row])
        return torch.from_numpy(values.reshape(len(self.ids), *shape))
