"""Where a converted network differs from its ANN: layer by layer, neuron by neuron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trustsnn.blocks import frozen
from trustsnn.conversion.convert import levels_of
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork, Stage, through
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.bitserial import BitSerial, shifted_sum
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.neurons.qcfs import QCFS
from trustsnn.statistics import Figure, proportion

_BATCH = 50


@dataclass(frozen=True)
class LayerComparison:
    """One layer of neurons of a converted network against the ANN's, over all samples.

    What is compared is the activation: n/L of the ANN with the level n, and of the spiking network n/L with the level that the bits
    tell, or the spike count over T. Two differ where these fractions do, without any tolerance. The `own` figures are those of
    the layer by itself: it gets the ANN's activations of the layer before, coded without error (as their bits, or as a constant
    current). The others are those in the network, where errors add up.

    name: of the spiking layer. threshold: lam of the ANN. neurons: of one sample.
    mismatches, own_mismatches: activations that differ. The interval takes neurons as independent, which those of a sample are not.
    error, own_error: mean absolute difference of the activations, times lam.
    tie: with a conversion that has no loss but by rounding, the largest distance, in levels, of the ANN's current to a border
        between levels among `own_mismatches`; None without any.
    rate: spikes a neuron and step; without spikes ("folded") activations above 0.
    """

    name: str
    threshold: float
    neurons: int
    mismatches: Figure
    own_mismatches: Figure
    error: float
    own_error: float
    tie: float | None
    rate: Figure


@dataclass(frozen=True)
class Comparison:
    """A converted network against its ANN: the layers; test accuracy of both; samples that both put into one class; the largest
    absolute difference of a logit; spikes of all layers, a sample (without spikes: activations above 0)."""

    layers: tuple[LayerComparison, ...]
    ann_accuracy: Figure
    accuracy: Figure
    agreement: Figure
    logits: float
    spikes: float


class _Segment(NamedTuple):
    """The stages before a layer of neurons, and that layer; None at the readout."""

    name: str
    stages: list[Stage]
    neuron: SpikingNeuron | None


class _Tally:
    """Sums over the samples of one layer."""

    def __init__(self, ann: QCFS, converted: SpikingNeuron, name: str, steps: int) -> None:
        self.ann, self.converted, self.name, self.steps = ann, converted, name, steps
        self.lossless = isinstance(converted, BitSerial | QCFS)
        self.whole = ann.levels if self.lossless else steps  # the value that stands for lam
        self.neurons = self.count = self.spikes = 0
        self.different, self.error = [0, 0], [0.0, 0.0]
        self.tie: float | None = None

    def add(self, current: Tensor, fired: Tensor, alone: Tensor) -> None:
        """For one batch the ANN's current [B, ...], the spikes [T, B, ...] in the network and by the layer alone."""
        level = self.ann.level(current)
        self.neurons, self.count = level[0].numel(), self.count + level.numel()
        self.spikes += int(torch.count_nonzero(fired))
        for place, spikes in enumerate((fired, alone)):
            value = (shifted_sum(spikes) if isinstance(self.converted, BitSerial) else spikes.sum(0)).to(level.dtype)
            wrong = value * self.ann.levels != level * self.whole
            count = int(torch.count_nonzero(wrong))
            if count:
                difference = value[wrong].double() / self.whole - level[wrong].double() / self.ann.levels
                self.error[place] += float(difference.abs().sum())
            self.different[place] += count
        if self.lossless and count:
            lifted = current[wrong].double() * (self.ann.levels / self.ann.bound) + 0.5
            border = lifted.round().clamp(1, self.ann.levels)
            self.tie = max(self.tie or 0.0, float((lifted - border).abs().max()))

    def result(self) -> LayerComparison:
        different, alone = (proportion(each, self.count) for each in self.different)
        error, own_error = (self.ann.bound * each / self.count for each in self.error)
        rate = proportion(self.spikes, self.count * self.steps)
        return LayerComparison(self.name, self.ann.bound, self.neurons, different, alone, error, own_error, self.tie, rate)


def compare(ann: SpikingNetwork, converted: SpikingNetwork, data: Dataset) -> Comparison:
    """Run both networks on all of `data`, each in the dtype of its weights, and set them side by side.

    Args:
        ann: a network with QCFS activations.
        converted: what `convert` made of it, by any method.

    Raises:
        ConfigError: the two differ in their number of spiking layers.
    """
    levels_of(ann)
    right_ann = right = agree = 0
    largest = 0.0
    with frozen(ann), frozen(converted), torch.no_grad():
        segments = _segments(ann), _segments(converted)
        if len(segments[0]) != len(segments[1]):
            raise ConfigError(
                f"Expected a network that was made from this ANN, with {len(segments[0]) - 1} spiking layers, got "
                f"{len(segments[1]) - 1}."
            )
        pairs = list(zip(*segments, strict=True))
        steps = converted.spec.steps
        tallies = [_Tally(a.neuron, c.neuron, c.name, steps) for a, c in pairs[:-1]]  # type: ignore[arg-type]
        for start in range(0, len(data), _BATCH):
            x, y = (torch.from_numpy(a) for a in data.batch(np.arange(start, min(start + _BATCH, len(data)))))
            theirs, ours = _one_batch(pairs, tallies, x, converted)
            classes_ann, classes = theirs.argmax(1), ours.argmax(1)
            right_ann, right = right_ann + int((classes_ann == y).sum()), right + int((classes == y).sum())
            agree, largest = agree + int((classes_ann == classes).sum()), max(largest, float((theirs - ours).abs().max()))
    ann_accuracy, accuracy, agreement = (proportion(successes, len(data)) for successes in (right_ann, right, agree))
    layers = tuple(tally.result() for tally in tallies)
    spikes = sum(tally.spikes for tally in tallies) / len(data)
    return Comparison(layers, ann_accuracy, accuracy, agreement, largest, spikes)


def _segments(network: SpikingNetwork) -> list[_Segment]:
    """Inside `fixed`: the network cut after each layer of neurons."""
    segments: list[_Segment] = []
    stages: list[Stage] = []
    for name, stage in network.stages():
        if isinstance(stage, SpikingNeuron):
            segments.append(_Segment(f"layers.{name}", stages, stage))
            stages = []
        else:
            stages.append((name, stage))
    return [*segments, _Segment("readout", stages, None)]


def _one_batch(
    pairs: list[tuple[_Segment, _Segment]], tallies: list[_Tally], x: Tensor, converted: SpikingNetwork
) -> tuple[Tensor, Tensor]:
    """The logits of both for the images `x`; the layers go into `tallies`."""
    theirs = x[None].to(tallies[0].ann.threshold.dtype)
    ours = coded = x[None].to(tallies[0].converted.threshold.dtype)  # its spikes; those that the ANN's activations would be
    for place, ((ann, other), tally) in enumerate(zip(pairs, tallies, strict=False)):
        current = _current(ann.stages, theirs, place > 0)
        fired = tally.converted.fire(_current(other.stages, ours, place > 0), tally.steps)
        alone = tally.converted.fire(_current(other.stages, coded, True), tally.steps) if place else fired
        tally.add(current[0], fired, alone)
        theirs, ours = tally.ann.fire(current), fired
        coded = _coded(tally, tally.ann.level(current).to(ours.dtype))
    return (
        mean_over_time(_current(pairs[-1][0].stages, theirs, True)),
        mean_over_time(converted.read(_current(pairs[-1][1].stages, ours, True))),
    )


def _current(stages: list[Stage], h: Tensor, spikes: bool) -> Tensor:
    """What the stages make of a sequence [T, B, ...]."""
    steps, batch = h.shape[:2]
    h = h.flatten(0, 1)
    for _, stage in stages:
        h, spikes = through(stage, h, spikes, batch), False
    sequence: Tensor = h.unflatten(0, (steps, batch))
    return sequence


def _coded(tally: _Tally, level: Tensor) -> Tensor:
    """The ANN's levels [1, B, ...] in the code of the converted layer: their bits, or a constant current."""
    if isinstance(tally.converted, BitSerial):
        return tally.converted.fire(level)
    return level if isinstance(tally.converted, QCFS) else level / tally.ann.levels
