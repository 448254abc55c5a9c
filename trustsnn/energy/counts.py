"""The operations of a network, counted while it computes real samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trustsnn.blocks import BLOCK, frozen, is_stochastic, predict
from trustsnn.data import Dataset
from trustsnn.energy.probes import observed
from trustsnn.energy.tally import LayerCounts, NeuronCounts, Tally
from trustsnn.errors import ConfigError
from trustsnn.models.spec import ModelSpec
from trustsnn.rng import Draws
from trustsnn.statistics import Figure, proportion

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """What `count` found: layers and neurons in the order in which they first compute, the predictions [N] and how many are right.
    Arrays have one value a sample, in the order of `ids`."""

    layers: tuple[LayerCounts, ...]
    neurons: tuple[NeuronCounts, ...]
    predictions: NDArray[np.int64]
    accuracy: Figure
    spec: ModelSpec
    ids: tuple[str, ...]
    model: nn.Module = field(repr=False)

    @property
    def macs(self) -> Values:
        """Multiply-accumulate operations of the layers with weights."""
        return self._sum([layer.effective for layer in self.weighted if not layer.accumulates])

    @property
    def acs(self) -> Values:
        """Accumulate operations of the layers with weights."""
        return self._sum([layer.effective for layer in self.weighted if layer.accumulates])

    @property
    def dense(self) -> float:
        """Operations of the layers with weights, those with zeros too, of one sample."""
        return sum(layer.dense for layer in self.weighted)

    @property
    def weighted(self) -> list[LayerCounts]:
        """The layers without attention, whose factors are both activations."""
        return [layer for layer in self.layers if not layer.attention]

    @property
    def spikes(self) -> Values:
        """What all layers of neurons gave that is not 0."""
        return self._sum([layer.spikes for layer in self.neurons])

    @property
    def places(self) -> int:
        """Neurons times steps of one sample."""
        return sum(layer.places for layer in self.neurons)

    def _sum(self, columns: list[Values]) -> Values:
        return np.asarray(sum(columns, np.zeros(len(self.ids))))


def count(model: nn.Module, data: Dataset, *, every_step: bool = False, seed: int = 0) -> Counts:
    """Count the operations of `model` on each sample of `data`. No figure depends on the size of a batch, and the model stays as it is.

    Args:
        model: a `SpikingNetwork`, whose every layer is seen, or a module whose convolutions and linear layers are modules.
        every_step: count the layers before the first neurons at each step, as a loop over the steps computes them. A
            `SpikingNetwork` computes them once where their input is a constant current.
        seed: of the draws of a stochastic model.

    Raises:
        ConfigError: the model has no convolution or linear layer, or mixes samples in a way that is not known.
    """
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    tally, predictions = Tally(spec.steps, every_step), []
    with observed(model, tally) as running, frozen(running):
        for start in range(0, len(data), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(data)))
            x = torch.from_numpy(data.batch(rows)[0])
            draws = Draws(seed, "energy", tuple(data.ids[row] for row in rows)) if is_stochastic(model) else None
            tally.begin(len(rows))
            predictions.append(predict(running, x, draws).argmax(1).numpy())
            tally.end()
    if not tally.layers:
        raise ConfigError(f"{type(model).__name__} has no convolution or linear layer whose operations could be counted.")
    found = np.concatenate(predictions)
    right = proportion(int((found == data.labels).sum()), len(data))
    layers = tuple(layer.counts(name) for name, layer in tally.layers.items())
    neurons = tuple(layer.counts(name) for name, layer in tally.neurons.items())
    return Counts(layers, neurons, found, right, spec, tuple(data.ids), model)
