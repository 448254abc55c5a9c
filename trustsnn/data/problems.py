"""The one form of a data error: where, what was expected, what was got, how to mend it."""

from __future__ import annotations

from trustsnn.errors import DataError


def problem(where: object, expected: str, got: object, mend: str) -> DataError:
    """A DataError to raise, with the same four parts in every message."""
    return DataError(f"{where}: expected {expected}, got {got}. {mend}")
