"""SpiNNaker: neurons that its ARM cores compute in s16.15 fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.hardware.fixed import check_plain
from trustsnn.hardware.twin import Layer, Twin
from trustsnn.models.gates import Drawn, uniform
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.fixed_point import FixedPoint
from trustsnn.settings import check_choice

FRACTION = 15  # bits behind the point
ONE = 1 << FRACTION
LARGEST = (1 << 31) - 1  # of a signed word of 32 bits
ROUNDINGS = ("nearest", "stochastic", "down")


def _words(x: Tensor) -> Tensor:
    """The nearest s16.15 numbers, as values."""
    return ((x.double() * ONE).round().clamp(-LARGEST - 1, LARGEST) / ONE).to(x)


@dataclass(frozen=True, kw_only=True)
class SpiNNaker(Twin):
    """Weights, biases, leak, threshold and membrane as s16.15 numbers: whole multiples of 2^-15 in [-65536, 65536).

    u = leak v + x, whose product has 30 bits behind the point and is rounded to 15 (Hopkins 2020): `rounding` "nearest" (halves
    up), "stochastic" (up with the probability of what is cut off, drawn for each neuron and step), or "down" as gcc's product
    does. Currents that are no s16.15 numbers, those of an input of numbers or behind average pooling, are rounded the same way.
    The membrane saturates. sPyNNaker further packs weights into 16 bits with a shift for each population, which is not modelled.
    The neurons are software: both resets and both comparators are there. What a network has beside weights and neurons is
    computed in floating point.
    """

    name: ClassVar[str] = "spinnaker"

    rounding: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"twin {self.name!r}", "rounding", self.rounding, ROUNDINGS)

    @property
    def stochastic(self) -> bool:
        """No chip differs from the next."""
        return False

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """The nearest s16.15 numbers."""
        return _words(weight)

    def bias(self, bias: Tensor, layer: Layer) -> Tensor:
        """The nearest s16.15 numbers."""
        return _words(bias)

    def currents(self, layer: Layer) -> nn.Module | None:
        """The draws of stochastic rounding."""
        return Dither(1 / ONE) if self.rounding == "stochastic" else None

    def neuron(self, neuron: SpikingNeuron, layer: Layer) -> SpikingNeuron:
        """The chip's neurons."""
        check_plain(neuron, layer.name)
        return SpiNNakerNeuron(neuron, self.rounding)


class Dither(Drawn):
    """Adds a uniform draw in [0, step) to each current, so that rounding it down is rounding at random."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """The currents [T * B, ...] with the draws."""
        return h + self.step * uniform(generator, part, h)

    def extra_repr(self) -> str:
        return f"step={self.step:g}"


class SpiNNakerNeuron(FixedPoint):
    """A layer of neurons in s16.15. With the rounding "stochastic" the current comes with the draws of a `Dither`."""

    def __init__(self, neuron: SpikingNeuron, rounding: str) -> None:
        leak, threshold = (round(float(each) * ONE) for each in neuron.parameters_in_bounds())
        super().__init__(neuron, ONE, leak=leak / ONE, threshold=max(threshold, 1) / ONE)
        self.leaking, self.level, self.rounding = leak, max(threshold, 1), rounding

    def drive(self, current: Tensor) -> Tensor:
        """The current with 30 bits behind the point; but for its draws on the grid of 15."""
        driven = current.double() * (self.gain * ONE)
        if self.rounding == "stochastic":
            return (driven * ONE).floor().long()
        return (driven.round() if self.rounding == "nearest" else driven.floor()).long() << FRACTION

    def step(self, state: Tensor, drive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `FixedPoint.step`."""
        half = ONE >> 1 if self.rounding == "nearest" else 0
        membrane = ((state * self.leaking + drive + half) >> FRACTION).clamp(-LARGEST - 1, LARGEST)
        fired = membrane > self.level if self.dynamics.comparator == ">" else membrane >= self.level
        after = membrane.masked_fill(fired, 0) if self.dynamics.reset == "hard" else membrane - self.level * fired
        return membrane, fired, after
