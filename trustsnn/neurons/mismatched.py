"""Neurons of an analog chip: each has a leak and a threshold of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trustsnn.kernels.lif import Keep
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.unrolled import Derivatives, spike

Factors = Callable[[tuple[int, ...]], tuple[Tensor, Tensor]]


class Mismatched(SpikingNeuron):
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

    def resume(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `SpikingNeuron.resume`."""
        spikes, _, after = self._fired(current, steps, before)
        return spikes, after.detach()

    def distances(self, current: Tensor, spikes: Tensor) -> Tensor:
        """As `SpikingNeuron.distances`, to each neuron's own threshold."""
        given = iter(spikes)
        membranes = self._through(self._driven(current, len(spikes)), None, lambda distance: next(given))[1]
        return membranes - self.of_each(current)[1]

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        spikes, membranes, _ = self._fired(current, len(current) if steps is None else steps, None)
        return spikes, membranes.detach()

    def _fired(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        driven = self._driven(current, steps)
        derivatives = Derivatives(self, driven, self.threshold)
        return self._through(driven, before, lambda distance: spike(distance, derivatives))

    def _driven(self, current: Tensor, steps: int) -> Tensor:
        """What joins the membranes at each step, [steps, B, ...]."""
        current = current * (1 - self.of_each(current)[0]) if self.dynamics.gain == "leaky" else current
        return current.expand(steps, *current.shape[1:])

    def _through(self, driven: Tensor, after: Tensor | None, fire: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, membranes before them, and the last membrane after its reset, where `fire` makes spikes of distances u - V."""
        leak, threshold = self.of_each(driven)
        after = self.dynamics.initial * threshold if after is None else after
        spikes, membranes = [], []
        for x in driven:
            membranes.append(leak * after + x)
            spikes.append(fire(membranes[-1] - threshold))
            fired = spikes[-1].detach() if self.dynamics.detach_reset else spikes[-1]
            after = membranes[-1] * (1 - fired) if self.dynamics.reset == "hard" else membranes[-1] - fired * threshold
        return torch.stack(spikes), torch.stack(membranes), after
