"""Loihi 1 in its own integers: current-based LIF neurons of 24 bits and weights of 8 bits with an exponent a layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from trustsnn.hardware.fixed import TINY, Core, Digital
from trustsnn.hardware.twin import Layer
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.fixed_point import FixedPoint

LIMIT = 1 << 23  # of u and v, which have 24 bits
ALIGN = 6  # bits by which synaptic sums and thresholds are shifted to the left
DECAY = 12  # bits of the decays du and dv
NO_MEMORY = (1 << DECAY) - 1  # a du with which u is the sum of the step alone
THRESHOLD = (1 << 17) - 1  # the largest vth
BIAS = (1 << 12) - 1  # the largest mantissa of a bias, of 13 bits with its sign
BIAS_EXPONENT = 7  # the largest exponent of a bias, of 3 bits
EXPONENTS = -8, 7  # of weights


class Step(NamedTuple):
    """What a step of `cuba_lif` gives: the current, the membrane before the spike, the spikes (boolean), the membrane
    afterwards."""

    u: Tensor
    membrane: Tensor
    spikes: Tensor
    v: Tensor


def cuba_lif(
    u: Tensor, v: Tensor, a: Tensor, bias: Tensor, *, du: int | Tensor, dv: int | Tensor, threshold: int | Tensor
) -> Step:
    """One step of Loihi's current-based LIF neurons, bit by bit (lava's bit-accurate model), over int64 tensors of one shape, or
    broadcast to it.

        u = decay(u, du + 1) + (a << 6)                  of (-2^23, 2^23], beyond which it wraps around
        v = decay(v, dv) + u + bias                      held in [-2^23 + 1, 2^23 - 1]
        spike where v > threshold << 6, then v = 0

    decay(x, d) is x (4096 - d) / 4096, truncated toward zero. a: sums of weights of spikes; du, dv in 0..4095; threshold in
    0..131071.
    """
    u = _wrapped(_decayed(u, du + 1) + (a << ALIGN))
    membrane = (_decayed(v, dv) + u + bias).clamp(1 - LIMIT, LIMIT - 1)
    spikes = membrane > threshold << ALIGN
    return Step(u, membrane, spikes, membrane.masked_fill(spikes, 0))


def _decayed(x: Tensor, decay: int | Tensor) -> Tensor:
    return x.sign() * ((x.abs() * ((1 << DECAY) - decay)) >> DECAY)


def _wrapped(x: Tensor) -> Tensor:
    return ((x + LIMIT - 1) & (2 * LIMIT - 1)) - LIMIT + 1


def bias_format(value: Tensor) -> Tensor:
    """What a bias of 13-bit mantissa (-4096..4095) and 3-bit exponent comes nearest to `value` with, int64: each with the least
    exponent that reaches it."""
    exponent = (value.double().abs() / BIAS).clamp(min=1).log2().ceil().clamp(max=BIAS_EXPONENT)
    step = exponent.exp2()
    return ((value.double() / step).round().clamp(-BIAS - 1, BIAS) * step).long()


class Scale(NamedTuple):
    """How Loihi has a core: the threshold vth, the exponent of its weights, their least and largest mantissa and the step between
    two, and the whole numbers of v to one of the network's units."""

    threshold: int
    exponent: int
    mantissas: tuple[int, int, int]
    unit: float


def scale(core: Core) -> Scale:
    """The largest threshold with which all of a core fits. Sums of weights stay within 24 bits whatever the input, and each bias,
    and each sum where those are biases, has its format."""
    mantissas = _mantissas(core.weight)
    limit = BIAS * (1 << BIAS_EXPONENT) / (core.largest_bias + (core.largest_sum if core.analogue else 0.0))
    exponent = 0
    if core.neurons is not None:
        limit = min(limit, (THRESHOLD << ALIGN) / core.threshold)
    if not core.analogue:
        limit = min(limit, (LIMIT - 1) / core.largest_sum)
        one = (1 << ALIGN) / _of_one(core, mantissas)  # the unit at which a mantissa of 1 is 1 without an exponent
        least = EXPONENTS[0] if core.neurons is not None else 0
        exponent = min(max(math.floor(math.log2(limit / one)), least), EXPONENTS[1])
        limit = min(limit, one * 2.0**exponent)
    threshold = max(math.floor(limit * core.threshold / (1 << ALIGN)), 1)
    return Scale(threshold, exponent, mantissas, (threshold << ALIGN) / core.threshold)


def _mantissas(weight: Tensor) -> tuple[int, int, int]:
    if float(weight.min()) < 0 < float(weight.max()):
        return -256, 254, 2  # the sign takes the place of the last bit
    return (0, 255, 1) if float(weight.min()) >= 0 else (-255, 0, 1)


def _of_one(core: Core, mantissas: tuple[int, int, int]) -> float:
    """The least weight of one spike that a mantissa of 1 may stand for."""
    shares = [
        float(core.weight.max()) / mantissas[1] if mantissas[1] else 0.0,
        float(core.weight.min()) / mantissas[0] if mantissas[0] else 0.0,
    ]
    return max(*shares, TINY) * core.gain / core.pool


@dataclass(frozen=True, kw_only=True)
class Loihi(Digital):
    """Loihi 1, bit by bit: `cuba_lif` (lava's bit-accurate model) behind weights of 8 bits.

    A weight is m 2^exponent, with m of -256..254 in steps of 2 in a layer of both signs, 0..255 or -255..0 in one of one sign,
    and an exponent of -8..7 for the layer; a negative one shifts the sums to the right, which rounds them down (lava). The
    network's current has no memory: du = 4095. dv is the nearest to 4096 (1 - leak), 4095 at most. Each layer has one scale: the
    threshold is 64 vth exactly, with the largest vth at which the weights fit, no sum can wrap around, and each bias has its
    format (13-bit mantissa, 3-bit exponent). Average pooling is part of the weights behind it, one weight for each spike.

    What is not as in the network: a membrane that equals the threshold does not fire; an input of numbers (direct coding) is no
    spike, so that the host computes the first weights in floating point and gives each neuron its sum as a bias; the last sums,
    of a network whose output is a membrane, are read as they are. Loihi resets to 0 and has no soft reset: such a network is
    refused, and runs with a reset to 0 if `approximate`. Spikes of a layer reach the next one in the same step of the twin, one
    step later on the chip. The sizes of cores, and refractory periods and delays, are not modelled.
    """

    name: ClassVar[str] = "loihi"

    def obstacles(self, found: list[Core], spec: ModelSpec) -> Iterator[str]:
        """A soft reset."""
        if any(core.neurons is not None and core.neurons.dynamics.reset == "soft" for core in found):
            yield "Its neurons are reset to 0: train the network with reset='hard'."

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """The weights that the chip has; those of the host as they are."""
        core = self.core(layer)
        if core.analogue:
            return weight
        low, high, step = (found := scale(core)).mantissas
        one = core.pool / core.gain * 2.0 ** (ALIGN + found.exponent) / found.unit
        return ((weight.double() / (one * step)).round() * step).clamp(low, high).mul(one).to(weight)

    def bias(self, bias: Tensor, layer: Layer) -> Tensor:
        """The biases in their format; those of the host as they are."""
        core = self.core(layer)
        if core.analogue:
            return bias
        unit = scale(core).unit * core.gain
        return (bias_format(bias * unit).double() / unit).to(bias)

    def replaced(self, neuron: SpikingNeuron, core: Core) -> SpikingNeuron:
        """The chip's neurons."""
        return LoihiNeuron(neuron, core)


class LoihiNeuron(FixedPoint):
    """A layer of neurons of `cuba_lif` with du = 4095, in place of the neurons of a core."""

    def __init__(self, neuron: SpikingNeuron, core: Core) -> None:
        found = scale(core)
        self.decay = min(round((1 - core.leak) * (1 << DECAY)), (1 << DECAY) - 1)
        bias: Tensor | int = 0
        if core.bias is not None and not core.analogue:
            bias = bias_format(core.bias * (found.unit * core.gain)).view(-1, *[1] * (core.weight.dim() - 2))
        super().__init__(
            neuron,
            found.unit,
            leak=1 - self.decay / (1 << DECAY),
            threshold=core.threshold,
            bias=bias,
            comparator=">",
            reset="hard",
        )
        self.vth, self.exponent, self.analogue = found.threshold, found.exponent, core.analogue

    def drive(self, current: Tensor) -> Tensor:
        """A sum of weights and the bias of each neuron, in units of v; of numbers, what the host gives as a bias."""
        if self.analogue:
            return bias_format(current.double() * (self.unit * self.gain))
        shift = 2.0**self.exponent
        mantissas = ((current.double() * (self.unit * self.gain) - self.bias) / (shift * (1 << ALIGN))).round()
        return ((mantissas * shift).floor().long() << ALIGN) + self.bias

    def step(self, state: Tensor, drive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `FixedPoint.step`."""
        bias = drive if self.analogue else self.bias.expand_as(drive)
        found = cuba_lif(
            drive.new_zeros(()), state, (drive - bias) >> ALIGN, bias, du=NO_MEMORY, dv=self.decay, threshold=self.vth
        )
        return found.membrane, found.spikes, found.v
