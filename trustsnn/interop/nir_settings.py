"""What a NIR graph leaves open: the time step, the steps, the reset, the comparator, and what feeds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from trustsnn.errors import ConfigError
from trustsnn.interop.hdf5 import Value
from trustsnn.models.spec import Domain
from trustsnn.neurons.dynamics import Comparator, Reset

Per = Literal["second", "step"]
LONGEST = 100_000  # time steps


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for reading a NIR graph. What is None comes from the file's metadata, else it is the default, else it is asked for.

    dt: the time step in the unit of the graph's time constants, seconds in NIR. No default.
    time_steps: T of a forward pass. No default.
    reset: "hard" to v_reset (NIR's, the default) or "soft", by subtraction of the threshold.
    comparator: ">" (NIR's, the default) or ">=".
    per: what the rate r of I and IF nodes counts for, a "second" (NIR's, the default: v grows by dt r x in a step) or a "step".
    domain: "image" by default. encoder: "direct" by default, "frames" for events. max_count: of the domain "events-count".
    input_shape: of one sample, where it is other than the graph's (which must have as many values).
    """

    dt: float | None = None
    time_steps: int | None = None
    reset: Reset | None = None
    comparator: Comparator | None = None
    per: Per | None = None
    domain: Domain | None = None
    encoder: str | None = None
    max_count: int | None = None
    input_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.dt is not None and not (math.isfinite(self.dt) and self.dt > 0):
            raise ConfigError(f"Expected a time step dt above 0, in the unit of the graph's time constants, got {self.dt}.")
        if self.time_steps is not None and not 1 <= self.time_steps <= LONGEST:
            raise ConfigError(f"Expected 1 to {LONGEST:,} time steps, got {self.time_steps}.")
        for name, choices in (("reset", Reset), ("comparator", Comparator), ("per", Per), ("domain", Domain)):
            if getattr(self, name) not in (None, *get_args(choices)):
                raise ConfigError(f"Expected {name} to be one of {get_args(choices)}, got {getattr(self, name)!r}.")

    def completed(self, metadata: Mapping[str, Value]) -> Settings:
        """These settings with what is None taken from a graph's or a node's metadata; ConfigError if that is of another kind."""
        return replace(self, **{key: value for key, value in _plain(metadata).items() if getattr(self, key) is None})


def parse(text: str) -> Settings:
    """Settings from the command line, such as "dt=1e-4,time_steps=25,input_shape=1x8x8"."""
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in _CONVERT:
            raise ConfigError(
                f"Expected settings of a NIR file as NAME=VALUE,..., with names of {', '.join(_CONVERT)}, got {part!r}."
            )
        try:
            found[key] = _CONVERT[key](value)
        except ValueError as error:
            raise ConfigError(f"Expected a value of {key}, got {value!r}: {error}.") from error
    return Settings(**found)


_CONVERT: dict[str, Any] = dict.fromkeys((field.name for field in fields(Settings)), str) | {
    "dt": float,
    "time_steps": int,
    "max_count": int,
    "input_shape": lambda text: tuple(int(n) for n in text.split("x")),
}


def _plain(metadata: Mapping[str, Value]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in _CONVERT.keys() & metadata.keys():
        value = metadata[key]
        try:
            if key == "input_shape":
                found[key] = tuple(int(n) for n in value)
            else:
                found[key] = _CONVERT[key](value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The file's metadata has no usable {key}: {error}. Pass it.") from error
    return found
