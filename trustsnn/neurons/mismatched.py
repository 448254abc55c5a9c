"""Neurons of an analog chip: each has a leak and a threshold of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trustsnn.neurons.heterogeneous import Constants, Individual
from trustsnn.neurons.lif import SpikingNeuron

Factors = Callable[[tuple[int, ...]], tuple[Tensor, Tensor]]


class Mismatched(Individual):
    """A layer of LIF neurons with leak_i = leak^a_i and threshold_i = b_i threshold, the rest as in `neuron`, whose leak and
    threshold stay those of the layer. The membrane starts at V0 of each neuron's own threshold.

    `factors(shape)` gives a and b for neurons of that shape, and is asked once for each shape that comes.

    >>> neuron = Mismatched(SpikingNeuron(), lambda shape: (torch.ones(shape), torch.tensor([1.0, 0.5])))
    >>> neuron(torch.full((2, 1, 2), 0.6)).flatten(1).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """

    def __init__(self, neuron: SpikingNeuron, factors: Factors) -> None:
        super().__init__(neuron.dynamics)
        leak, threshold = neuron.parameters_in_bounds()
        self.leak, self.threshold = leak.detach().clone(), threshold.detach().clone()
        self.estimator, self.keep = neuron.estimator, neuron.keep
        self.factors = factors
        self._known: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def of_each(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """Leak and threshold [...neurons] of the neurons that a current [T, B, ...neurons] is for."""
        shape = tuple(current.shape[2:])
        if shape not in self._known:
            self._known[shape] = self.factors(shape)
        decay, factor = (each.to(current) for each in self._known[shape])
        return self.leak**decay, self.threshold * factor

    def constants(self, current: Tensor) -> Constants:
        """Leak and threshold of each; the rest as the layer has it."""
        leak, threshold = self.of_each(current)
        zero = torch.zeros((), dtype=current.dtype, device=current.device)
        return Constants(
            leak=leak, gain=1 - leak if self.dynamics.gain == "leaky" else zero + 1, threshold=threshold, rest=zero, after=zero
        )
