"""Backdoors by poisoning: a data set of which a share of the samples carries a trigger and the label of the attacker, and what of it works."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trustsnn.attacks.integrity.triggers import Samples, Stamp
from trustsnn.canonical import sha256_of
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.statistics import Figure
from trustsnn.training import accuracy


class Stamped:
    """The samples of a data set, with the trigger where `marked`. Read on demand."""

    def __init__(self, data: Dataset, stamp: Stamp, marked: NDArray[np.bool_]) -> None:
        self.data, self.stamp, self.marked = data, stamp, marked

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.sample_shape

    def __len__(self) -> int:
        return len(self.data)

    def read(self, rows: NDArray[np.int64]) -> Samples:
        found = self.data.batch(rows)[0]
        here = np.flatnonzero(self.marked[rows])
        if here.size:
            found[here] = self.stamp(found[here], [self.data.ids[row] for row in rows[here]])
        return found


def poisoned(data: Dataset, stamp: Stamp, target: int, rate: float, seed: int = 0) -> Dataset:
    """`data` with the trigger and the label `target` on a share `rate` of its samples: of other classes, those with the smallest
    SHA-256(seed, id). They get ids of their own, and the data set another hash.

    Raises:
        ConfigError: no such class, or no sample or too few of other classes for that rate.
    """
    check_target(data, target)
    others = np.flatnonzero(data.labels != target)
    count = round(rate * len(data))
    if not 0 < count <= len(others):
        raise ConfigError(
            f"Expected a poison rate that takes from 1 to {len(others)} of the {len(data)} samples of {data.name}, got {rate:g}, which takes "
            f"{count}."
        )
    drawn = sorted(others.tolist(), key=lambda i: hashlib.sha256(f"poison\x1f{seed}\x1f{data.ids[i]}".encode()).digest())[:count]
    return _stamped(data, stamp, target, np.isin(np.arange(len(data)), drawn), "poisoned")


def triggered(data: Dataset, stamp: Stamp, target: int) -> Dataset:
    """The samples of `data` of other classes, all of them with the trigger and the label `target`: what the model gets right is what the
    backdoor succeeds in.

    Raises:
        ConfigError: no such class, or no sample of another class.
    """
    check_target(data, target)
    others = np.flatnonzero(data.labels != target)
    if not len(others):
        raise ConfigError(f"Expected samples of {data.name} of another class than the target {target}, got none.")
    return _stamped(data.select(others), stamp, target, np.ones(len(others), dtype=np.bool_), "triggered")


def success(model: nn.Module, data: Dataset, stamp: Stamp, target: int, *, seed: int = 0) -> Figure:
    """The attack success rate: of the samples of other classes, those that the model takes for `target` once the trigger is on them."""
    return accuracy(model, triggered(data, stamp, target), seed=seed)


def check_target(data: Dataset, target: int) -> None:
    """ConfigError where `data` has no such class."""
    if not 0 <= target < len(data.classes):
        raise ConfigError(f"Expected a target class in 0..{len(data.classes) - 1} of {data.name}, got {target}.")


def _stamped(data: Dataset, stamp: Stamp, target: int, marked: NDArray[np.bool_], word: str) -> Dataset:
    said: dict[str, Any] = {"stamp": stamp.describe(), "target": target}
    digest = sha256_of(said)
    ids = tuple(
        hashlib.sha256(f"{digest}{each}".encode()).hexdigest()[:16] if mark else each
        for each, mark in zip(data.ids, marked, strict=True)
    )
    changed = sorted(each for each, mark in zip(data.ids, marked, strict=True) if mark)
    return replace(
        data,
        name=f"{data.name} ({word})",
        values=Stamped(data, stamp, marked),
        labels=np.where(marked, target, data.labels),
        ids=ids,
        sha256=sha256_of({"of": data.samples_sha256, "marked": changed, **said}),
        rows=None,
    )
