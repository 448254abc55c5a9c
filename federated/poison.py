"""Bad clients, for tests and audits: what one sends in place of its update, or trains on in place of its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trustsnn.attacks.integrity.backdoor import poisoned as stamped
from trustsnn.attacks.integrity.triggers import Stamp, Static
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import Arrays

Sent = tuple[Arrays, Any]


def _each(change: Callable[[Any], Any]) -> Callable[[Arrays, int], Sent]:
    return lambda update, samples: (
        {name: np.asarray(change(array), dtype=np.float32) for name, array in update.items()},
        samples,
    )


def _shape(update: Arrays, samples: int) -> Sent:
    first = min(update)
    return {**update, first: update[first].ravel()[:-1].copy()}, samples


POISONS: dict[str, tuple[str, Callable[[Arrays, int], Sent]]] = {
    "nan": ("every value is NaN", _each(lambda array: np.full_like(array, np.nan))),
    "inf": ("every value is infinite", _each(lambda array: np.full_like(array, np.inf))),
    "million": ("its update a million times over", _each(lambda array: 1e6 * array)),
    "sign-flip": ("the negative of its update", _each(lambda array: -array)),
    "many-samples": ("says that a billion samples stand behind it", lambda update, samples: (update, 1_000_000_000)),
    "negative-samples": ("says that fewer than no samples stand behind it", lambda update, samples: (update, -samples)),
    "shape": ("one tensor lacks a value", _shape),
}
"""What each does in a line, and the function of (update, samples) that does it."""


BACKDOORS = {
    "backdoor": "trains half of its samples to be class 0 with a patch in a corner",
    "backdoor-boosted": "the same, and its update times the number of clients that are asked (model replacement, Bagdasaryan 2020)",
}
TARGET = 0


def stamp_of(data: Dataset) -> Stamp:
    """What a backdoor reacts to: a white patch in the bottom-right corner."""
    return Static().made(data, TARGET)


def tampered(kind: str, data: Dataset, seed: int) -> Dataset:
    """What a bad client trains on."""
    if kind not in BACKDOORS:
        return data
    rate = min(0.5, float((data.labels != TARGET).mean()))
    return stamped(data, stamp_of(data), TARGET, rate, seed) if rate * len(data) >= 1 else data


def check_kind(kind: str) -> None:
    """ConfigError for a kind of bad client that there is not."""
    if kind not in {*POISONS, *BACKDOORS}:
        raise ConfigError(f"Unknown kind of bad client {kind!r}. Known: {', '.join([*POISONS, *BACKDOORS])}.")


def poisoned(kind: str, update: Arrays, samples: int, clients: int) -> Sent:
    """What a bad client of that kind sends, where so many clients are asked. ConfigError for a kind that there is not."""
    check_kind(kind)
    if kind in BACKDOORS:
        factor = clients if kind.endswith("boosted") else 1
        return {name: np.asarray(factor * array, dtype=np.float32) for name, array in update.items()}, samples
    return POISONS[kind][1](update, samples)
