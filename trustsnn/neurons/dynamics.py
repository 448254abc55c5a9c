"""What a layer of spiking neurons computes, as one frozen description that every implementation reads."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from trustsnn.errors import ConfigError

Reset = Literal["hard", "soft"]
Comparator = Literal[">=", ">"]
Gain = Literal["unit", "leaky"]


@dataclass(frozen=True)
class Dynamics:
    """Leaky integrate-and-fire over discrete time (integrate-and-fire with leak = 1).

        u_t = leak * v_{t-1} + gain * x_t        membrane before the spike, v_0 = initial
        s_t = 1[u_t >= V]  or  1[u_t > V]        comparator
        v_t = (1 - s_t) u_t                      reset "hard"
        v_t = u_t - s_t V                        reset "soft"

    `gain` is 1 ("unit") or 1 - leak ("leaky"). With `detach_reset` the reset's spike carries no gradient.
    `initial` is V0 as a fraction of the threshold (0.5 gives V0 = V/2). `leak` in [0, 1]; `threshold` > 0.
    Sources: survey arXiv 2312.01213 eq. 1-4; Bu 2022 for V0.
    """

    leak: float = 0.5
    threshold: float = 1.0
    reset: Reset = "hard"
    detach_reset: bool = False
    comparator: Comparator = ">="
    gain: Gain = "unit"
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.leak <= 1:
            raise ConfigError(f"Expected a leak in [0, 1], got {self.leak}.")
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ConfigError(f"Expected a positive threshold, got {self.threshold}.")
        if not math.isfinite(self.initial):
            raise ConfigError(f"Expected a finite initial membrane (a fraction of the threshold), got {self.initial}.")
        for name, choices in (("reset", Reset), ("comparator", Comparator), ("gain", Gain)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"Expected {name} to be one of {get_args(choices)}, got {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        return asdict(self)
