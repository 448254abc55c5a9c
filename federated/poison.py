"""Bad clients, for tests and audits: what one sends in place of its update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

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


def poisoned(kind: str, update: Arrays, samples: int) -> Sent:
    """What a bad client of that kind sends. ConfigError for a kind that there is not."""
    if kind not in POISONS:
        raise ConfigError(f"Unknown kind of bad client {kind!r}. Known: {', '.join(POISONS)}.")
    return POISONS[kind][1](update, samples)
