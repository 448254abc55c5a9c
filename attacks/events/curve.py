"""How many samples an event attack breaks within how many changed events."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import DataError


def success_curve(
    fooled: NDArray[Any], changes: NDArray[Any], budgets: NDArray[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Success rate against the number of changed events: budgets [M] and, for each, the share of all N samples that are
    fooled with at most that many changes, in [0, 1]; it never falls.

    Args:
        fooled: bool [N]. Pass samples that the model gets right when clean, or those that it gets wrong count as broken at 0.
        changes: whole numbers [N] of at least 0.
        budgets: where to read the curve; by default 0 and each number of changes at which it rises.
    """
    fooled, changes = np.asarray(fooled), np.asarray(changes)
    if fooled.ndim != 1 or fooled.shape != changes.shape or len(fooled) == 0 or fooled.dtype != np.bool_:
        raise DataError(
            f"Expected fooled as bool [N] and as many changes, N of at least 1, got {fooled.dtype} {fooled.shape} and {changes.shape}."
        )
    if changes.dtype.kind not in "iu" or (changes < 0).any():
        raise DataError("Expected changes as whole numbers of at least 0. Pass EventResult.changes.")
    needed = np.sort(changes[fooled]).astype(np.int64)
    chosen = np.unique(np.concatenate([[0], needed])) if budgets is None else np.asarray(budgets)
    return chosen.astype(np.int64), np.searchsorted(needed, chosen, side="right") / len(fooled)
