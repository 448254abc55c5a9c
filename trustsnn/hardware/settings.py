"""A check that the twins' settings share."""

from __future__ import annotations

from collections.abc import Sequence

from trustsnn.errors import ConfigError


def check_choice(twin: str, setting: str, value: object, choices: Sequence[object]) -> None:
    """ConfigError unless `value` is one of `choices`, and of the same type."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ConfigError(f"Expected {setting} of the twin {twin!r} as one of {', '.join(map(repr, choices))}, got {value!r}.")
