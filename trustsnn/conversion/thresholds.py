"""The threshold V of each layer of a ReLU network, from its activations over a calibration set."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from trustsnn.blocks import frozen
from trustsnn.conversion.segments import batches
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons.relu import ReLU

_CANDIDATES = 95


def largest_activations(ann: SpikingNetwork, samples: Dataset, percentile: float) -> list[float]:
    """Of each layer that percentile of its activations over all neurons and samples: the value that a share of 1 - percentile / 100 of
    them lie above. With 100 it is the largest (Diehl 2015), a little below it leaves outliers out (Rueckauer 2017)."""
    kept: list[Tensor] = []
    for layers in _activations(ann, samples):
        kept = kept or [a.new_empty(0) for a in layers]
        for place, activation in enumerate(layers):
            above = int((1 - percentile / 100) * activation[0].numel() * len(samples))
            values = torch.cat([kept[place], activation.flatten()])
            kept[place] = values.topk(min(above + 1, len(values))).values
    return [float(values[-1]) for values in kept]


def least_squares(ann: SpikingNetwork, samples: Dataset, largest: list[float], steps: int, initial: float) -> list[float]:
    """Of each layer the V that minimises the squared difference of activations x from what T steps of a constant current make of them,
    (V/T) clip(floor(xT/V + initial), 0, T), among (1 - 0.01 i) of the largest, i < 95 (Li ICML 2021)."""
    candidates = [[top * (1 - 0.01 * i) for i in range(_CANDIDATES)] for top in largest]
    errors = torch.zeros(len(largest), _CANDIDATES, dtype=torch.float64)
    for layers in _activations(ann, samples):
        for place, activation in enumerate(layers):
            some = activation[activation > 0]
            for i, bound in enumerate(candidates[place]):
                expressed = torch.floor(some * (steps / bound) + initial).clamp_(0, steps).mul_(bound / steps)
                errors[place, i] += (expressed - some).square_().sum(dtype=torch.float64)
    return [candidates[place][int(best)] for place, best in enumerate(errors.argmin(1))]


def with_thresholds(ann: SpikingNetwork, thresholds: list[float]) -> SpikingNetwork:
    """A copy of `ann` whose ReLU layers have these thresholds. ConfigError for one that is not positive."""
    copied = copy.deepcopy(ann)
    layers = [(name, layer) for name, layer in copied.layers.named_modules() if isinstance(layer, ReLU)]
    for (name, layer), bound in zip(layers, thresholds, strict=True):
        if not bound > 0:
            raise ConfigError(
                f"Expected layers.{name} to be active on the calibration samples, got a threshold of {bound}. Take more samples, a higher "
                "percentile, or train the ANN longer."
            )
        layer.threshold.fill_(bound)
    return copied


def _activations(ann: SpikingNetwork, samples: Dataset) -> Iterator[list[Tensor]]:
    """For each batch the activations [B, ...] of all layers of neurons."""
    with frozen(ann), torch.no_grad():
        for x, _ in batches(samples, next(ann.parameters())):
            yield list(ann.activations(x[0])[1].values())
