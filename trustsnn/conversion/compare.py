"""Where a converted network differs from its ANN: layer by layer, neuron by neuron."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustsnn.blocks import frozen
from trustsnn.conversion.convert import levels_of
from trustsnn.conversion.segments import batches, rectified
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.bitserial import BitSerial, shifted_sum
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.qcfs import QCFS, quantise
from trustsnn.neurons.relu import ReLU
from trustsnn.statistics import Figure, proportion


@dataclass(frozen=True)
class LayerComparison:
    """One layer of neurons of a converted network against the ANN's, over all samples.

    What is compared is the activation: n/L of the ANN with the level n, and of the spiking network n/L with the level that the bits
    tell, or the spike count over T. Two differ where these fractions do, without any tolerance. The `own` figures are those of
    the layer by itself: it gets the ANN's activations of the layer before, coded without error (as their bits, or as a constant
    current). The others are those in the network, where errors add up.

    A ReLU has no levels: its activation over V, a real number, is held against the spike count over T. What differs is then a spike count
    that is not the nearest one, and `floor` is the error that the nearest one leaves: T steps cannot express more.

    name: of the spiking layer. threshold: lam of the ANN, or V of a ReLU. neurons: of one sample.
    mismatches, own_mismatches: activations that differ. The interval takes neurons as independent, which those of a sample are not.
    error, own_error, floor: mean absolute difference of the activations, in units of the ANN.
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
    floor: float
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


class _Tally:
    """Sums over the samples of one layer."""

    def __init__(self, ann: QCFS | ReLU, converted: SpikingNeuron, name: str, steps: int) -> None:
        self.ann, self.converted, self.name, self.steps = ann, converted, name, steps
        self.lossless = isinstance(converted, BitSerial | QCFS)
        if isinstance(ann, QCFS):
            self.levels, self.bound = ann.levels, ann.bound
        elif isinstance(converted, Calibrated):
            self.levels, self.bound = steps, converted.bound
        else:
            raise ConfigError(
                f"Expected a network that was made from this ANN by calibration, got {type(converted).__name__} at {name}."
            )
        self.whole = self.levels if self.lossless else steps  # the value that stands for lam
        self.neurons = self.count = self.spikes = 0
        self.different, self.error, self.floor = [0, 0], [0.0, 0.0], 0.0
        self.tie: float | None = None

    def level(self, current: Tensor) -> Tensor:
        """The ANN's level of a current, the nearest one where it has none."""
        return (
            self.ann.level(current)
            if isinstance(self.ann, QCFS)
            else quantise(current, current.new_tensor(self.bound), self.levels)
        )

    def fraction(self, current: Tensor) -> Tensor:
        """The ANN's activation over lam or V."""
        return self.ann.level(current) / self.levels if isinstance(self.ann, QCFS) else torch.relu(current) / self.bound

    def add(self, current: Tensor, fired: Tensor, spikes: int, alone: Tensor) -> None:
        """For one batch the ANN's current [B, ...], what the layer's spikes in the network come to (see `value`) and how many they are,
        and what those by the layer alone come to."""
        level = self.level(current)
        exact = None if isinstance(self.ann, QCFS) else self.fraction(current).double()
        self.neurons, self.count = level[0].numel(), self.count + level.numel()
        self.spikes += spikes
        if exact is not None:
            self.floor += float((level.double() / self.levels - exact).abs().sum())
        for place, value in enumerate((fired.to(level.dtype), alone.to(level.dtype))):
            wrong = value * self.levels != level * self.whole
            count = int(torch.count_nonzero(wrong))
            if exact is not None:
                self.error[place] += float((value.double() / self.whole - exact).abs().sum())
            elif count:
                difference = value[wrong].double() / self.whole - level[wrong].double() / self.levels
                self.error[place] += float(difference.abs().sum())
            self.different[place] += count
        if self.lossless and count:
            lifted = current[wrong].double() * (self.levels / self.bound) + 0.5
            border = lifted.round().clamp(1, self.levels)
            self.tie = max(self.tie or 0.0, float((lifted - border).abs().max()))

    def value(self, spikes: Tensor) -> Tensor:
        """The level [B, ...] that spikes [T, B, ...] tell, or their count."""
        return shifted_sum(spikes) if isinstance(self.converted, BitSerial) else spikes.sum(0)

    def coded(self, current: Tensor, dtype: torch.dtype) -> Tensor:
        """The ANN's activation [T, B, ...] of a current [B, ...] in the code of the converted layer: its bits, or a constant current."""
        if isinstance(self.converted, BitSerial):
            return self.converted.fire(self.level(current)[None].to(dtype))
        whole = self.level(current) if isinstance(self.converted, QCFS) else self.fraction(current)
        return whole.to(dtype).expand(self.steps, *whole.shape)

    def result(self) -> LayerComparison:
        different, alone = (proportion(each, self.count) for each in self.different)
        error, own_error, floor = (self.bound * each / self.count for each in (*self.error, self.floor))
        rate = proportion(self.spikes, self.count * self.steps)
        return LayerComparison(self.name, self.bound, self.neurons, different, alone, error, own_error, floor, self.tie, rate)


def compare(ann: SpikingNetwork, converted: SpikingNetwork, data: Dataset) -> Comparison:
    """Run both networks on all of `data`, each in the dtype of its weights, and set them side by side.

    Args:
        ann: a network with QCFS or ReLU activations.
        converted: what `convert` made of it, by any method.

    Raises:
        ConfigError: the two differ in their number of spiking layers.
    """
    if not rectified(ann):
        levels_of(ann)
    right_ann = right = agree = 0
    largest = 0.0
    with frozen(ann), frozen(converted), torch.no_grad():
        theirs, ours = _neurons(ann), _neurons(converted)
        if len(theirs) != len(ours):
            raise ConfigError(
                f"Expected a network that was made from this ANN, with {len(theirs)} spiking layers, got {len(ours)}."
            )
        steps = converted.spec.steps
        tallies = [_Tally(a, c, name, steps) for (_, a), (name, c) in zip(theirs, ours, strict=True)]  # type: ignore[arg-type]
        for x, y in batches(data, next(ann.parameters())):
            logits_ann, logits = _one_batch(ann, converted, tallies, x[0])
            classes_ann, classes = logits_ann.argmax(1), logits.argmax(1)
            right_ann, right = right_ann + int((classes_ann == y).sum()), right + int((classes == y).sum())
            agree, largest = agree + int((classes_ann == classes).sum()), max(largest, float((logits_ann - logits).abs().max()))
    ann_accuracy, accuracy, agreement = (proportion(successes, len(data)) for successes in (right_ann, right, agree))
    layers = tuple(tally.result() for tally in tallies)
    spikes = sum(tally.spikes for tally in tallies) / len(data)
    return Comparison(layers, ann_accuracy, accuracy, agreement, largest, spikes)


def _neurons(network: SpikingNetwork) -> list[tuple[str, SpikingNeuron]]:
    """The layers of neurons by name, in the order in which they run."""
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, SpikingNeuron)]


def _one_batch(ann: SpikingNetwork, converted: SpikingNetwork, tallies: list[_Tally], x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of both for the images `x` [B, ...]; the layers go into `tallies`."""
    currents: list[Tensor] = []
    fired: list[tuple[Tensor, int]] = []
    alone = iter(enumerate(tallies))

    def drive(name: str, neuron: SpikingNeuron, current: Tensor, steps: int) -> Tensor:
        currents.append(current[0])
        return neuron.fire(current, steps)

    def fire(name: str, neuron: SpikingNeuron, current: Tensor, steps: int) -> Tensor:
        spikes = neuron.fire(current, steps)
        fired.append((tallies[len(fired)].value(spikes), int(torch.count_nonzero(spikes))))
        return spikes

    def replace(name: str, neuron: SpikingNeuron, current: Tensor, steps: int) -> Tensor:
        """What the layers before give is the ANN's, without error; so is what this layer hands on."""
        place, tally = next(alone)
        tally.add(currents[place], *fired[place], tally.value(neuron.fire(current, steps)))
        return tally.coded(currents[place], current.dtype)

    logits_ann = ann.fired_by(drive, x)
    x = x.to(tallies[0].converted.threshold.dtype)
    logits = converted.fired_by(fire, x)
    converted.fired_by(replace, x)
    return logits_ann, logits
