"""The settings on which all parties of a secure aggregation agree, checked so that no sum can wrap around."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trustsnn.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Settings of a secure aggregation; parties whose settings differ cannot read each other's shares.

    clients: the most clients of a round, at least 2.
    threshold: how many must answer each stage, more than half of `clients`: then a server cannot get the two secrets of a client
        from two halves of the others.
    clip: every value of an update is clipped to [-clip, clip].
    bits: of a quantised value, 2 to 32, its sign among them.
    max_weight: the largest weight (sample count) of a client. With 1 the clients weigh the same.
    ring: the sum is modulo 2^ring, 32 or 64. It sets the traffic: 4 or 8 bytes a value.

    Raises:
        ConfigError: one of these is out of range, or the sum over `clients` could wrap around.
    """

    clients: int
    threshold: int
    clip: float
    bits: int = 20
    max_weight: int = 1
    ring: int = 32

    def __post_init__(self) -> None:
        for name in ("clients", "threshold", "bits", "max_weight", "ring"):
            if type(getattr(self, name)) is not int:
                raise ConfigError(f"Expected a whole number for {name} of a secure aggregation, got {getattr(self, name)!r}.")
        object.__setattr__(self, "clip", float(self.clip))  # 1 and 1.0 are the same settings
        if self.clients < 2:
            raise ConfigError(
                f"Expected at least 2 clients of a secure aggregation, got {self.clients}: the sum of one is its update."
            )
        if not self.clients // 2 < self.threshold <= self.clients:
            raise ConfigError(
                f"Expected a threshold above half of the {self.clients} clients and not above all of them, got {self.threshold}. "
                f"Set threshold to {self.clients // 2 + 1} or more."
            )
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"Expected a positive, finite clip of a secure aggregation, got {self.clip}.")
        if not 2 <= self.bits <= 32:
            raise ConfigError(f"Expected bits from 2 to 32, got {self.bits}.")
        if self.max_weight < 1:
            raise ConfigError(f"Expected a max_weight of at least 1, got {self.max_weight}.")
        if self.ring not in (32, 64):
            raise ConfigError(f"Expected a ring of 32 or 64 bits, got {self.ring}.")
        largest, room = self.clients * max(self.levels, self.max_weight), (1 << (self.ring - 1)) - 1
        if largest > room:
            raise ConfigError(
                f"The sum of {self.clients} clients with {self.bits} bits and weights up to {self.max_weight} can reach {largest}; a ring "
                f"of {self.ring} bits holds {room}. Use fewer bits, a smaller max_weight, or ring=64."
            )

    @property
    def levels(self) -> int:
        """The largest quantised value: they run from -levels to levels."""
        return (1 << (self.bits - 1)) - 1

    @property
    def step(self) -> float:
        """The distance between neighbouring quantised values, in units of the update."""
        return self.clip / self.levels
