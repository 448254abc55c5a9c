"""A network as what comes before each of its layers of neurons, and those neurons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork, Stage, through
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.estimator import neurons_of
from trustsnn.neurons.qcfs import QCFS
from trustsnn.neurons.relu import ReLU

_BATCH = 50


class Segment(NamedTuple):
    """The stages before a layer of neurons, and that layer; None at the readout."""

    name: str
    stages: list[Stage]
    neuron: SpikingNeuron | None


def rectified(ann: SpikingNetwork) -> bool:
    """Whether all layers of neurons of `ann` are ReLU."""
    return _all(ann, ReLU)


def quantised(ann: SpikingNetwork) -> bool:
    """Whether all layers of neurons of `ann` are QCFS."""
    return _all(ann, QCFS)


def _all(ann: SpikingNetwork, kind: type[SpikingNeuron]) -> bool:
    found = neurons_of(ann) if isinstance(ann, SpikingNetwork) else []
    return bool(found) and all(isinstance(layer, kind) for layer in found)


def check_sequential(network: SpikingNetwork) -> None:
    """ConfigError for a network whose layers of neurons are not all in one row."""
    layers = network.layers.named_children() if isinstance(network, SpikingNetwork) else ()
    nested = [name for name, layer in layers if not isinstance(layer, SpikingNeuron) and neurons_of(layer)]
    if nested:
        raise ConfigError(
            f"Expected a network whose layers follow each other, got neurons inside layers.{nested[0]}: networks with branches are not "
            "taken here. Take mlp, conv or VGG. Of a ResNet there are the conversions bit-serial, rate, shift, folded and balance."
        )


def check_foldable(ann: SpikingNetwork, *, residual: bool = False) -> None:
    """ConfigError for a network whose layers of neurons are not all in one row, unless its branches may be `residual`, or whose
    normalisation is no fixed factor."""
    if not residual:
        check_sequential(ann)
    for name, layer in ann.layers.named_modules() if isinstance(ann, SpikingNetwork) else ():
        if isinstance(layer, BatchNormThroughTime | nn.GroupNorm):
            raise ConfigError(
                f"The layer layers.{name} ({type(layer).__name__}) cannot be converted: it scales each step or each sample differently. "
                "Train with --norm batch, td or none."
            )


def segments(network: SpikingNetwork) -> list[Segment]:
    """Inside `fixed`: the network cut after each layer of neurons."""
    found: list[Segment] = []
    stages: list[Stage] = []
    for name, stage in network.stages():
        if isinstance(stage, SpikingNeuron):
            found.append(Segment(f"layers.{name}", stages, stage))
            stages = []
        else:
            stages.append((name, stage))
    return [*found, Segment("readout", stages, None)]


def current(stages: list[Stage], h: Tensor, spikes: bool) -> Tensor:
    """What the stages make of a sequence [T, B, ...]."""
    steps, batch = h.shape[:2]
    h = h.flatten(0, 1)
    for _, stage in stages:
        h, spikes = through(stage, h, spikes, batch), False
    sequence: Tensor = h.unflatten(0, (steps, batch))
    return sequence


def batches(data: Dataset, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images [1, B, ...], in the dtype of `like`, and labels [B] of all of `data`, in its order."""
    for start in range(0, len(data), _BATCH):
        x, y = (torch.from_numpy(a) for a in data.batch(np.arange(start, min(start + _BATCH, len(data)))))
        yield x[None].to(like.dtype), y
