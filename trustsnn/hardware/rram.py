"""Resistive memory: programming noise of two measured chips, and a generic one.

The deviation of a device that is meant to be G uS, with xi a standard normal draw:

    wan2022   max(G + s xi, 0),  s = 1.536e-4 G^3 - 1.167e-2 G^2 + .2374 G + 1.053 uS, G up to 39.26 uS: a cubic fit of CrossSim
              to Extended Data Fig. 3 of Wan Nature 2022, 1 s after programming
    milo      max(G + s xi, 0),  s = max(4.782321 - .009107 G, 0) uS, G in 50 ... 225 uS: a linear fit of CrossSim to Fig. 4 of
              Milo IRPS 2021 (algorithm IGVVA-100)
    generic   G e^(sigma xi),  sigma .05 to .3 in the literature; no scale of its own

Not taken over: aihwkit's `ReRamWan2022NoiseModel` has polynomials for 40 uS and means to rescale them to its 25 uS, but stores
their reference under a name that nothing reads, so that its noise is 1.6 times too strong. CrossSim lets a conductance fall below
0; here it cannot, which raises the mean of devices within a few sigma of 0. The fits hold at one time each: there is no drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.polynomial.polynomial import polyval

from trustsnn.errors import ConfigError
from trustsnn.hardware.crossbar import Conductances, Crossbar
from trustsnn.hardware.twin import Layer
from trustsnn.settings import check_choice, setting


class Device(NamedTuple):
    """The window of conductances of a memory in uS, and sigma in uS as a polynomial in G, lowest power first."""

    low: float
    high: float
    sigma: tuple[float, ...]


DEVICES = {
    "wan2022": Device(0.0, 39.26, (1.053, 0.2374, -1.167e-2, 1.536e-4)),
    "milo": Device(50.0, 225.0, (4.782321, -0.009107)),
    "generic": Device(0.0, 100.0, ()),
}
SIGMA = 0.1  # of "generic", within the .05 to .3 of the literature


def program(
    target: Conductances, model: str, draws: np.random.Generator, scale: float = 1.0, sigma: float = SIGMA
) -> Conductances:
    """What is programmed in place of `target`, both uS; `scale` multiplies sigma, and `sigma` is that of "generic"."""
    xi = draws.standard_normal(target.shape)
    if model == "generic":
        return target * np.exp(scale * sigma * xi)
    return np.maximum(target + scale * np.maximum(polyval(target, DEVICES[model].sigma), 0) * xi, 0)


@dataclass(frozen=True, kw_only=True)
class RRAM(Crossbar):
    """Weights in resistive memory of one `model`: "wan2022", "milo" or "generic"; see the head of this file.

    `sigma` belongs to "generic". `noise` multiplies sigma.
    """

    name: ClassVar[str] = "rram"

    model: str = "wan2022"
    sigma: float = setting(SIGMA, 0.0, 3.0)
    noise: float = setting(1.0, 0.0, 100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"twin {self.name!r}", "model", self.model, list(DEVICES))
        if self.model != "generic" and self.sigma != SIGMA:
            raise ConfigError(
                f"The twin 'rram' takes sigma with the model 'generic' alone, got {self.sigma} with {self.model!r}."
            )

    @property
    def window(self) -> tuple[float, float]:
        """That of the model."""
        device = DEVICES[self.model]
        return device.low, device.high

    def conductances(self, target: Conductances, layer: Layer) -> Conductances:
        """As programmed."""
        return program(target, self.model, layer.draws("programming"), self.noise, self.sigma)
