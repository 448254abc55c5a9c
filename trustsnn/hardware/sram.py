"""Static memory at low voltage: bit errors in digital weights, and noise on sums that the memory computes itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.hardware.converters import Noisy
from trustsnn.hardware.twin import Layer, Twin
from trustsnn.settings import check_choice, setting

Codes = NDArray[np.int64]


def flip(codes: Codes, rate: float, bits: int, draws: np.random.Generator) -> Codes:
    """Numbers in two's complement of `bits` bits, each bit of which is the wrong one with probability `rate`.

    A lower rate on the same draws flips some of the same bits and no other, as a higher voltage does (RandBET).
    """
    mask = np.zeros_like(codes)
    for bit in range(bits):
        mask |= (draws.random(codes.shape) < rate).astype(np.int64) << bit
    stored: Codes = (codes & (2**bits - 1)) ^ mask
    return stored - (stored >> (bits - 1) << bits)


@dataclass(frozen=True, kw_only=True)
class SRAM(Twin):
    """Weights of `bits` bits in static memory.

    A layer's weights are the nearest whole multiples of max|w| / (2^(bits-1) - 1), in two's complement. Each bit is wrong with
    the rate `ber`, at places that are the chip's (random bit errors of low voltage; Stutz MLSys 2021, RandBET, whose rates are
    2.5e-6 to 9e-2), and what is read is held in +-max|w|. Left out of RandBET's quantiser: the .001 that it adds to max|w|.
    Biases are digital and stay.

    `noise`: of an 8T array that multiplies in place, at each read. Each of the n cells of a column adds a current that deviates
    by `noise` times that of the layer's largest weight w, so that a sum deviates by N(0, (noise w)^2 n), anew for each sample and
    step. That form is our assumption, with every input active. Published figures depend on the macro: a compute SNR (Gonugondla
    2020, arXiv 2012.13645), or a share of a converter's step (MC2-RAM, 8T1C: 4.5 %). 0 is a memory that is read digitally.
    """

    name: ClassVar[str] = "sram"

    bits: int = 8
    ber: float = setting(1e-3, 0.0, 1.0)
    noise: float = setting(0.0, 0.0, 100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"twin {self.name!r}", "bits", self.bits, (4, 8))

    @property
    def stochastic(self) -> bool:
        """Whether there are bit errors."""
        return self.ber > 0

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """Quantised, with the chip's errors."""
        values, top = weight.double().numpy(force=True), 2 ** (self.bits - 1) - 1
        step = float(np.abs(values).max(initial=0.0)) / top or 1.0
        codes = np.rint(values / step).astype(np.int64)
        found = flip(codes, self.ber, self.bits, layer.draws("bits")).clip(-top, top)
        return torch.from_numpy(step * found).to(weight)

    def outputs(self, layer: Layer) -> nn.Module | None:
        """The noise on sums."""
        if not self.noise:
            return None
        assert layer.synapses is not None
        weight = layer.synapses.weight.detach()
        return Noisy(self.noise * weight.abs().max().view(1) * math.sqrt(weight[0].numel()), nn.Identity())
