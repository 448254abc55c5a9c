"""Xylo: neurons of 16 bits that decay by bit shifts, behind weights of 8 bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from trustsnn.hardware.fixed import Core, Digital, emitted
from trustsnn.hardware.twin import Layer
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.fixed_point import FixedPoint
from trustsnn.settings import check_choice

WEIGHT = 127  # the largest weight, of 8 bits with its sign
STATE = 32767  # the largest state, threshold and bias, of 16 bits with their sign
SHIFT = 7  # the most bits by which weights are shifted to the left
DASH = 15  # the most bits of a decay
SYNAPSE = 1  # bits of the shortest decay of a synaptic current that leaves anything of it
SPIKES = 31  # the most spikes of a neuron in a step


class Scale(NamedTuple):
    """How Xylo has a core: the threshold, the bits by which its weights are shifted, and the whole numbers to one of the
    network's units."""

    threshold: int
    shift: int
    unit: float


def scale(core: Core) -> Scale:
    """rockpool's scale, 127 / max|w|, doubled as often as the threshold and the largest sum stay within 16 bits: that is the
    weights' shift to the left. A threshold too large for any shift sets the scale itself."""
    most = max(core.threshold, core.largest_sum + core.largest_bias)
    if core.analogue:
        unit, shift = STATE / most, 0
    else:
        unit = WEIGHT / core.largest
        shift = min(max(math.floor(math.log2(STATE / (most * unit))), 0), SHIFT)
        unit = min(unit * (1 << shift), STATE / core.threshold)
    return Scale(max(round(core.threshold * unit), 1), shift, unit)


def dash(leak: float) -> int:
    """The shift whose decay, 1 - 2^-dash, comes nearest to the leak on a scale of logarithms: round(-log2(1 - leak)), 15 at
    most."""
    return min(round(-math.log2(1 - leak)), DASH) if leak < 1 else DASH


def decayed(x: Tensor, bits: int) -> Tensor:
    """x - (x >> bits), int64, where what is taken away is at least 1 toward 0 (xylosim)."""
    less = x >> bits
    return x - torch.where(less == 0, x.sign(), less)


def _held(x: Tensor) -> Tensor:
    return x.clamp(-STATE - 1, STATE)


@dataclass(frozen=True, kw_only=True)
class Xylo(Digital):
    """The arithmetic of Xylo's neurons, as xylosim has it, in a network of any size: weights of 8 bits, thresholds, biases and
    states of 16, decays by bit shifts, on one scale for each layer (`scale`), rounded to the nearest. States saturate.

        i = i + sum of weights, then i - (i >> 1)
        u = v - (v >> dash) + i + bias,  of which each whole threshold is a spike, up to 31 in a step, and is subtracted

    `synapse`: whether the current i has the memory of the chip's shortest synapse: the charge of a spike arrives as 1/2, 1/4,
    1/8, ... of it in this step and the next ones. Off, it is the current of the step alone, as the network has it and the chip
    has not: what the precision costs by itself. The leak becomes 1 - 2^-dash; at least 1 of 2^16 leaks in each step, also from
    neurons without leak.

    What is not as in the network: an input of numbers is no spike, so that the host computes the first weights in floating point
    and gives each neuron its sum as a bias; weights behind average pooling hold its factor; the last sums, of a network whose
    output is a membrane, are read as they are. Neurons subtract their threshold and start at 0: others are refused, or do so if
    `approximate`. Spikes of a layer reach the next one in the same step. No bundled network fits the chip, with its 16 inputs,
    1000 hidden neurons and 8 outputs. Shifts of weights of up to 7 bits are our assumption.
    """

    name: ClassVar[str] = "xylo"

    synapse: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"twin {self.name!r}", "synapse", self.synapse, (True, False))

    def obstacles(self, found: list[Core], spec: ModelSpec) -> Iterator[str]:
        """Hard resets, and membranes that do not start at 0."""
        neurons = [core.neurons for core in found if core.neurons is not None]
        if any(each.dynamics.reset == "hard" for each in neurons):
            yield "Its neurons subtract the threshold: train the network with reset='soft'."
        if any(each.dynamics.initial != 0 or getattr(each, "potential", None) is not None for each in neurons):
            yield "Its membranes start at 0: train the network with initial=0."

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """The nearest of 8 bits; those of the host as they are."""
        core = self.core(layer)
        if core.analogue:
            return weight
        found = scale(core)
        unit = found.unit / (1 << found.shift) * core.gain / core.pool
        return ((weight.double() * unit).round().clamp(-WEIGHT - 1, WEIGHT) / unit).to(weight)

    def bias(self, bias: Tensor, layer: Layer) -> Tensor:
        """The nearest of 16 bits; those of the host as they are."""
        core = self.core(layer)
        unit = scale(core).unit * core.gain
        return bias if core.analogue else (_held((bias.double() * unit).round()) / unit).to(bias)

    def replaced(self, neuron: SpikingNeuron, core: Core) -> SpikingNeuron:
        """The chip's neurons."""
        return XyloNeuron(neuron, core, self.synapse)


class XyloNeuron(FixedPoint):
    """A layer of Xylo's neurons, in place of those of a core. Their state is [B, 2, ...]: the synaptic current and the
    membrane."""

    def __init__(self, neuron: SpikingNeuron, core: Core, synapse: bool) -> None:
        found = scale(core)
        self.level, self.dash = found.threshold, dash(core.leak)
        self.synapse = synapse and not core.analogue
        bias: Tensor | int = 0
        if core.bias is not None and self.synapse:
            bias = _held((core.bias.double() * (found.unit * core.gain)).round()).view(-1, *[1] * (core.weight.dim() - 2))
        super().__init__(
            neuron,
            found.unit,
            leak=1 - 0.5**self.dash,
            threshold=self.level / found.unit,
            bias=bias,
            comparator=">=",
            reset="soft",
        )

    def rest(self, like: Tensor) -> Tensor:
        """As `FixedPoint.rest`."""
        return torch.zeros_like(like)[:, None].expand(-1, 2, *like.shape[1:])

    def reaching(self, current: Tensor, steps: int) -> Tensor:
        """As `FixedPoint.reaching`: through the synapse, but for the bias."""
        current = super().reaching(current, steps)
        if not self.synapse:
            return current
        bias = (self.bias / self.unit).to(current)
        found, held = [], torch.zeros_like(current[0])
        for x in current.expand(steps, *current.shape[1:]):
            held = (held + x - bias) / 2
            found.append(held + bias)
        return torch.stack(found)

    def step(self, state: Tensor, drive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `FixedPoint.step`."""
        current, v = state.unbind(1)
        current = _held(current + drive - self.bias)
        current = decayed(current, SYNAPSE) if self.synapse else current
        membrane = _held(v + _held(_held(decayed(v, self.dash) - v + current) + self.bias))
        count = emitted(membrane, self.level, SPIKES)
        after = torch.stack([current if self.synapse else torch.zeros_like(current), membrane - self.level * count], 1)
        return membrane, count, after
