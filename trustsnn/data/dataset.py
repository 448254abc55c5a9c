"""A data set: labelled samples with ids that depend on their content only, read in batches as float32."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trustsnn.canonical import sha256_of
from trustsnn.data.problems import problem
from trustsnn.errors import ConfigError

Domain = Literal["image", "events-binary", "events-count"]
Indices = Sequence[int] | NDArray[Any]


class Values(Protocol):
    """The samples of a data set, in memory or made on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    def __len__(self) -> int: ...

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The samples at `rows`, float32 [B, *shape], in the range of the domain."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples of one split.

    `domain` is 'image' (values in [0, 1], samples [C, H, W]), 'events-binary' (0 or 1, samples [T, 2, H, W]; channel 0 is
    OFF, 1 is ON) or 'events-count' (whole numbers in 0..max_count, the same shape).
    `ids` name the samples by their content, so that the order of a file never changes them. `sha256` is the hash of the whole
    split's content, whatever its order; `select` and `take` keep it, and change `samples_sha256`.

    Raises DataError for no sample, for lengths that differ, and for a label outside 0..K-1.
    """

    name: str
    split: str
    domain: Domain
    values: Values = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    sha256: str
    max_count: int | None = None
    rows: NDArray[np.int64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        rows = np.arange(len(self.values), dtype=np.int64) if self.rows is None else self.rows
        labels = np.asarray(self.labels)
        check_labels(labels, len(rows), len(self.classes), self.name)
        if len(self.ids) != len(rows):
            raise problem(f"data set {self.name!r}", f"{len(rows)} ids, one a sample", len(self.ids), "Pass one id a sample.")
        if len(set(self.ids)) < len(self.ids) or "" in self.ids:
            raise problem(
                f"data set {self.name!r}", "ids that are unique and not empty", "an id twice or empty", "Pass one id a sample."
            )
        if (self.domain == "events-count") != (self.max_count is not None):
            raise problem(
                f"data set {self.name!r}",
                "max_count with 'events-count' only",
                self.max_count,
                "Pass max_count, or leave it out.",
            )
        labels = labels.astype(np.int64)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: [C, H, W], or [T, 2, H, W] for events."""
        return self.values.shape

    @property
    def samples_sha256(self) -> str:
        """SHA-256 (hex) of the samples that are in: ids and labels sorted by id, with the domain they live in."""
        samples = sorted(zip(self.ids, self.labels.tolist(), strict=True))
        return sha256_of({"domain": self.domain, "max_count": self.max_count, "samples": samples})

    def batch(self, indices: Indices) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Samples float32 [B, *sample_shape] and labels int64 [B], in the order of `indices`. IndexError beyond the end."""
        chosen = self._positions(indices)
        assert self.rows is not None
        return self.values.read(self.rows[chosen]), self.labels[chosen]

    def select(self, indices: Indices) -> Dataset:
        """The same data set with the samples at `indices` only, in that order. Nothing is copied but labels and ids."""
        chosen = self._positions(indices)
        assert self.rows is not None
        ids = tuple(self.ids[i] for i in chosen.tolist())
        return replace(self, labels=self.labels[chosen], ids=ids, rows=self.rows[chosen])

    def take(self, n: int, seed: int = 0) -> Dataset:
        """The n samples with the smallest SHA-256(seed, id), sorted by id; all of them where n is not below the length.

        The order of the samples does not matter, and `take(n)` is a part of `take(n + 1)`. ConfigError for n < 1.
        """
        if n < 1:
            raise ConfigError(f"take: expected at least 1 sample, got {n}. Ask for 1 sample or more.")
        drawn = sorted(range(len(self)), key=lambda i: hashlib.sha256(f"{seed}\x1f{self.ids[i]}".encode()).digest())[:n]
        return self.select(np.array(sorted(drawn, key=lambda i: self.ids[i]), dtype=np.int64))

    def _positions(self, indices: Indices) -> NDArray[np.int64]:
        chosen = np.asarray(indices)
        if chosen.size == 0:
            return np.zeros(0, dtype=np.int64)
        positions: NDArray[np.int64] = np.arange(len(self), dtype=np.int64)[chosen]
        return positions


def check_labels(labels: NDArray[Any], count: int, classes: int, name: str) -> None:
    """Raise DataError unless `labels` are `count` > 0 whole numbers in 0..classes-1."""
    where = f"data set {name!r}"
    if count == 0:
        raise problem(where, "at least 1 sample", "0 samples", "Check the path and the split.")
    if labels.ndim != 1 or len(labels) != count:
        raise problem(where, f"{count} labels, one a sample", f"labels of shape {labels.shape}", "Pass y with shape [N].")
    if labels.dtype.kind not in "iu":
        raise problem(where, "labels of a whole-number type", labels.dtype, "Convert them with y.astype('int64').")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        index = int(wrong[0])
        raise problem(
            f"{where}, sample {index}",
            f"a label in 0..{classes - 1}",
            int(labels[index]),
            "Mend the label, or pass as many classes as there are.",
        )
