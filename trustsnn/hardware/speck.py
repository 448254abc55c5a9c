"""Speck and DYNAP-CNN: convolutions of 8 bits and integrate-and-fire neurons of 16 bits, in nine cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trustsnn.hardware.fixed import ANALOGUE, Core, Digital, emitted
from trustsnn.hardware.twin import Layer
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.fixed_point import FixedPoint

WEIGHT = 127  # the largest weight and the largest bias, of 8 bits with their sign
STATE = 32767  # the largest membrane, of 16 bits with its sign
CORES = 9  # each with one layer of weights and neurons
KERNEL = 16  # the largest height and width of a convolution


def scale(core: Core) -> float:
    """Whole numbers to one of the network's units: min(127 / max|w|, 127 / max|b|, 32767 / V). sinabs takes the lower bound of
    the membrane into that as well, so that one which is not set, -2^15, holds the scale below 1; here that bound is the chip's,
    whatever the scale."""
    limits = [WEIGHT / core.largest, WEIGHT / core.largest_bias]
    return min(limits if core.neurons is None else [*limits, STATE / core.threshold])


@dataclass(frozen=True, kw_only=True)
class Speck(Digital):
    """Speck, a DYNAP-CNN, with the precision that sinabs discretises to: weights and biases of 8 bits, membranes of 16, on one
    scale for each layer (`scale`), rounded to the nearest. The membrane saturates. Average pooling is a sum of spikes, with its
    factor in the weights behind it.

    Neurons do not leak. A reset may be to 0 (one spike a step) or by subtraction (one spike for each threshold that the membrane
    holds, all in one step). The chip has no steps and treats each event as it comes; the twin adds up the events of a step first.
    Limits: 9 cores, one for each layer of weights; kernels of up to 16; input and output are spikes. A network beyond them is
    refused, or, if `approximate`, runs all the same: without its leak, and with numbers in place of spikes where it has them at
    its input or output. The memory of the cores is not modelled, nor what becomes of a linear layer, which is a convolution over
    the whole map there.
    """

    name: ClassVar[str] = "speck"

    def obstacles(self, found: list[Core], spec: ModelSpec) -> Iterator[str]:
        """Leaks, numbers at the input or the output, and sizes."""
        if any(core.neurons is not None and core.leak < 1 for core in found):
            yield "Its neurons do not leak: train the network with leak=1."
        if spec.encoder in ANALOGUE:
            yield "Its input is spikes: code it as 'poisson' or 'latency', or use event frames."
        if spec.readout != "spike-count":
            yield "Its output is spikes: build the network with readout='spike-count'."
        if len(found) > CORES:
            yield f"It has {CORES} cores, and the network has {len(found)} layers of weights: build a smaller one."
        if any(max(core.weight.shape[2:], default=1) > KERNEL for core in found):
            yield f"Its kernels are up to {KERNEL} wide: build a network of smaller ones."

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """The nearest of 8 bits."""
        core = self.core(layer)
        return _held(weight, scale(core) * core.gain / core.pool)

    def bias(self, bias: Tensor, layer: Layer) -> Tensor:
        """The nearest of 8 bits."""
        core = self.core(layer)
        return _held(bias, scale(core) * core.gain)

    def replaced(self, neuron: SpikingNeuron, core: Core) -> SpikingNeuron:
        """The chip's neurons."""
        return SpeckNeuron(neuron, core)


def _held(x: Tensor, unit: float) -> Tensor:
    return ((x.double() * unit).round().clamp(-WEIGHT - 1, WEIGHT) / unit).to(x)


class SpeckNeuron(FixedPoint):
    """A layer of neurons of 16 bits without leak, in place of the neurons of a core."""

    def __init__(self, neuron: SpikingNeuron, core: Core) -> None:
        unit = scale(core)
        self.level = max(round(core.threshold * unit), 1)
        super().__init__(neuron, unit, leak=1.0, threshold=self.level / unit, comparator=">=")

    def step(self, state: Tensor, drive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `FixedPoint.step`."""
        membrane = (state + drive).clamp(-STATE - 1, STATE)
        if self.dynamics.reset == "hard":
            fired = membrane >= self.level
            return membrane, fired, membrane.masked_fill(fired, 0)
        count = emitted(membrane, self.level)
        return membrane, count, membrane - self.level * count
