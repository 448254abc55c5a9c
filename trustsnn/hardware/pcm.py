"""Phase-change memory: programming noise, drift, 1/f read noise, and what a chip does against drift.

The model and all of its constants are those of IBM's aihwkit (`PCMLikeNoiseModel`), fitted to measured devices with a highest
conductance of 25 uS (Nandakumar ICECS 2019, Joshi Nature Communications 2020). With g = G / 25 uS and xi a standard normal draw:

    programming   G_0 = max(G + s xi, 0),  s = .26348 + 1.965 g - 1.1731 g^2 uS, so that a device at 0 deviates too
    drift         G_t = G_0 ((t + t_0) / t_0)^-nu,  t in s since the end of programming, t_0 = 20 s,
                  nu = |m + d xi|,  m = clip(-.0155 ln g + .0244, .049, .1),  d = clip(-.0125 ln g - .0059, .008, .045)
    read          max(G_t (1 + q sqrt(ln((t + t_0 + t_r) / (2 t_r))) xi), 0),  q = min(.0088 / g_0^.65, .2), t_r = 250 ns
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trustsnn.hardware.crossbar import Conductances, Crossbar
from trustsnn.hardware.twin import Layer
from trustsnn.settings import check_choice, setting

HIGHEST = 25.0  # uS
FIRST = 20.0  # s, t_0
READ = 250e-9  # s, t_r
LEAST = 1e-7  # of g in a logarithm, as in aihwkit
AGES = 100 * 365.25 * 86400  # s, the longest time that is taken


def program(target: Conductances, draws: np.random.Generator, scale: float = 1.0) -> Conductances:
    """What is programmed in place of `target`, both uS; `scale` multiplies the published sigma."""
    g = target / HIGHEST
    sigma = 0.26348 + 1.965 * g - 1.1731 * g**2
    return np.maximum(target + scale * sigma * draws.standard_normal(target.shape), 0)


def exponents(target: Conductances, draws: np.random.Generator, scale: float = 1.0) -> Conductances:
    """The drift exponent nu of each device that was meant to be `target` (uS); `scale` multiplies it."""
    logarithm = np.log(np.maximum(target / HIGHEST, LEAST))
    mean = np.clip(-0.0155 * logarithm + 0.0244, 0.049, 0.1)
    deviation = np.clip(-0.0125 * logarithm - 0.0059, 0.008, 0.045)
    return scale * np.abs(mean + deviation * draws.standard_normal(target.shape))


def drift(programmed: Conductances, nu: Conductances, time: float) -> Conductances:
    """The conductances `time` seconds after programming, uS."""
    return programmed * np.exp(-nu * math.log((time + FIRST) / FIRST))


def read(
    drifted: Conductances, programmed: Conductances, time: float, draws: np.random.Generator, scale: float = 1.0
) -> Conductances:
    """What one read gives `time` seconds after programming, uS; `scale` multiplies the published sigma."""
    share = np.full_like(programmed, 0.2)
    some = programmed > 0
    share[some] = np.minimum(0.0088 / (programmed[some] / HIGHEST) ** 0.65, 0.2)
    spread = math.sqrt(math.log((time + FIRST + READ) / (2 * READ)))
    return np.maximum(drifted * (1 + scale * spread * share * draws.standard_normal(drifted.shape)), 0)


@dataclass(frozen=True, kw_only=True)
class PCM(Crossbar):
    """Weights in phase-change memory, read once `time` seconds after programming; see the head of this file.

    A chip at two times has the same programmed state and the same exponents, and a read of its own at each.

    `compensate`: the sums of a layer are multiplied by one factor, the mean |output| for one-hot inputs right after programming
    (free of read noise, as in aihwkit) over that at `time`, which for one-hot inputs are means of |w|. Biases are digital and
    stay.

    `program_noise`, `drift_rate`, `read_noise`: factors on the published sigma, exponent and sigma.
    """

    name: ClassVar[str] = "pcm"

    time: float = setting(25.0, 0.0, AGES)
    compensate: bool = True
    program_noise: float = setting(1.0, 0.0, 100.0)
    drift_rate: float = setting(1.0, 0.0, 100.0)
    read_noise: float = setting(1.0, 0.0, 100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"twin {self.name!r}", "compensate", self.compensate, (True, False))

    @property
    def window(self) -> tuple[float, float]:
        """0 to 25 uS."""
        return 0.0, HIGHEST

    def conductances(self, target: Conductances, layer: Layer) -> Conductances:
        """Programmed, aged and read; with the layer's factor where drift is compensated."""
        programmed = program(target, layer.draws("programming"), self.program_noise)
        nu = exponents(target, layer.draws("drift"), self.drift_rate)
        drifted = drift(programmed, nu, self.time)
        now = read(drifted, programmed, self.time, layer.draws("read", self.time), self.read_noise)
        weighs = _mean_output(now)
        return now * (_mean_output(programmed) / weighs) if self.compensate and weighs > 0 else now


def _mean_output(conductances: Conductances) -> float:
    """The mean |output| over all one-hot inputs, uS."""
    return float(np.abs(conductances[0] - conductances[1]).mean())
