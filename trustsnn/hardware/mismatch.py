"""Mismatch of analog circuits: no two transistors are the same, so each neuron and synapse has parameters of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustsnn.errors import ConfigError
from trustsnn.hardware.twin import Layer, Twin
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.mismatched import Mismatched
from trustsnn.settings import check_choice, setting

LEAST = 0.01  # of a threshold's factor: a circuit has no threshold of 0 or below


@dataclass(frozen=True, kw_only=True)
class Mismatch(Twin):
    """Each parameter p is p (1 + (deviation / 3) xi) on the chip, xi a standard normal draw for it: the neurons' thresholds and
    leak currents, and with `synapses` the weights.

    The leak current is what the decay of a step is exponential in, leak = exp(-current), so that the factor is an exponent:
    leak^(1 + ...). A neuron without leak stays one. Thresholds stay above 1 % of theirs, and leak currents do not change sign.

    `deviation`: what 99.7 % of the parameters stay within; .30 as in rockpool (30 % at 3 sigma). DYNAP-SE has a coefficient of
    variation of about 20 % by hearsay, a deviation of .6.
    """

    name: ClassVar[str] = "mismatch"

    deviation: float = setting(0.3, 0.0, 100.0)
    synapses: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"twin {self.name!r}", "synapses", self.synapses, (True, False))

    def factors(self, shape: tuple[int, ...], draws: np.random.Generator) -> NDArray[np.float64]:
        """1 + (deviation / 3) xi for parameters of the shape."""
        return 1 + self.deviation / 3 * draws.standard_normal(shape)

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """The weights, each with its factor where `synapses` says so."""
        if not self.synapses:
            return weight
        return weight * torch.from_numpy(self.factors(tuple(weight.shape), layer.draws("weights"))).to(weight)

    def neuron(self, neuron: SpikingNeuron, layer: Layer) -> SpikingNeuron:
        """Neurons that deviate, each with its own two factors."""
        if type(neuron) is not SpikingNeuron:
            raise ConfigError(
                f"The twin 'mismatch' deviates layers of SpikingNeuron, got {type(neuron).__name__} at {layer.name!r}. Give it "
                "a network of plain LIF or IF neurons, and no other twin that replaces them."
            )
        return Mismatched(neuron, partial(self.of_neurons, layer))

    def of_neurons(self, layer: Layer, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The factors of the leak currents and of the thresholds of a layer of neurons."""
        decay = self.factors(shape, layer.draws("leak")).clip(min=0)
        threshold = self.factors(shape, layer.draws("threshold")).clip(min=LEAST)
        return torch.from_numpy(decay), torch.from_numpy(threshold)
