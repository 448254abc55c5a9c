"""Checks that the estimators' settings share."""

from __future__ import annotations

from trustsnn.errors import ConfigError


def check_between(name: str, value: float, low: float, high: float) -> None:
    """ConfigError unless `value` is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"Expected {name} as a number in [{low:g}, {high:g}], got {value!r}.")
