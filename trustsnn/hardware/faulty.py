"""Devices of a crossbar that are stuck at one conductance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trustsnn.errors import ConfigError
from trustsnn.hardware.crossbar import Conductances, Crossbar
from trustsnn.hardware.twin import Layer
from trustsnn.settings import setting


def stick(target: Conductances, highest: float, sa0: float, sa1: float, draws: np.random.Generator) -> Conductances:
    """The conductances, a share `sa0` of them at 0 and a share `sa1` at `highest`. Lower shares on the same draws are stuck at
    some of the same places and at no other."""
    place = draws.random(target.shape)
    return np.where(place < sa0, 0.0, np.where(place >= 1 - sa1, highest, target))


@dataclass(frozen=True, kw_only=True)
class StuckAt(Crossbar):
    """Pairs of conductances of which some devices are stuck: with the rate `sa0` at 0 (high resistance), `sa1` at the highest.

    The defaults are those of MNSIM 2.0 since 2024, .1 % each; before that it had 9 % and 1 %, about what was measured on one chip
    (Chen IEEE TC 2015).
    """

    name: ClassVar[str] = "stuck-at"

    sa0: float = setting(1e-3, 0.0, 1.0)
    sa1: float = setting(1e-3, 0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sa0 + self.sa1 > 1:
            raise ConfigError(
                f"Expected sa0 and sa1 of the twin 'stuck-at' to add up to 1 at most, got {self.sa0} and {self.sa1}."
            )

    @property
    def window(self) -> tuple[float, float]:
        """0 to 1: the unit does not matter."""
        return 0.0, 1.0

    def conductances(self, target: Conductances, layer: Layer) -> Conductances:
        """With the devices that are stuck."""
        return stick(target, self.window[1], self.sa0, self.sa1, layer.draws("stuck"))
