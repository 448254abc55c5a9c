"""Faults of neurons and synapses after SpikeFI (Spyrou 2024, arXiv 2412.06795), and the accuracy that they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.attacks.integrity.bands import Amount, Band, by_count, numbers
from trustsnn.attacks.integrity.search import drawn_places, weight_matrices
from trustsnn.blocks import frozen
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.kernels.lif import Keep
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.rng import Draws, stream
from trustsnn.statistics import Figure
from trustsnn.training import accuracy

LEAST, MOST = 0.1, 3.0  # of the factor on a parameter or a weight, drawn uniformly
Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, Values, NDArray[np.int64]], Values]


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `draw(generator, weights, places)` gives the value of each place: of a neuron what it emits at every step, or
    the factor on its `parameter`; of a synapse its new weight, `weights` being all of its layer's, flattened."""

    description: str
    draw: Draw
    neuron: bool = False
    parameter: str | None = None


def _constant(value: float) -> Draw:
    return lambda generator, weights, places: np.full(len(places), value)


def _factor(generator: np.random.Generator, weights: Values, places: NDArray[np.int64]) -> Values:
    return generator.uniform(LEAST, MOST, len(places))


def _beyond(quartile_distances: float) -> Draw:
    def draw(generator: np.random.Generator, weights: Values, places: NDArray[np.int64]) -> Values:
        first, third = np.quantile(weights, (0.25, 0.75))
        return np.full(len(places), third + quartile_distances * (third - first))

    return draw


def _bit_flip(generator: np.random.Generator, weights: Values, places: NDArray[np.int64]) -> Values:
    scale = float(np.abs(weights).max()) / 127 or 1.0
    codes = np.round(weights[places] / scale).astype(np.int8)
    flipped = codes.view(np.uint8) ^ (1 << generator.integers(8, size=len(places))).astype(np.uint8)
    return flipped.view(np.int8).astype(np.float64) * scale


FAULTS: dict[str, Fault] = {
    "neuron-dead": Fault("never fires", _constant(0.0), neuron=True),
    "neuron-saturated": Fault("fires at every step", _constant(1.0), neuron=True),
    "neuron-stuck": Fault(
        "gives the same value of [0, 1] at every step",
        lambda generator, weights, places: generator.random(len(places)),
        neuron=True,
    ),
    "neuron-threshold": Fault(f"its threshold times {LEAST} to {MOST}", _factor, neuron=True, parameter="threshold"),
    "neuron-leak": Fault(f"its leak times {LEAST} to {MOST}, 1 at most", _factor, neuron=True, parameter="leak"),
    "synapse-dead": Fault("weight 0", _constant(0.0)),
    "synapse-stuck": Fault(
        "a weight between the least and the largest of its layer",
        lambda generator, weights, places: generator.uniform(weights.min(), weights.max(), len(places)),
    ),
    "synapse-saturated": Fault("the third quartile of its layer's weights and 1.5 quartile distances more", _beyond(1.5)),
    "synapse-saturated-extreme": Fault("the same with 3 quartile distances", _beyond(3.0)),
    "synapse-perturbed": Fault(
        f"its weight times {LEAST} to {MOST}",
        lambda generator, weights, places: weights[places] * _factor(generator, weights, places),
    ),
    "synapse-bit-flip": Fault("one of the 8 bits of its weight in two's complement flipped", _bit_flip),
}


class Place(NamedTuple):
    """A neuron or a synapse: its layer or tensor, and its place in it, flattened."""

    layer: str
    place: int


class FaultyNeurons(SpikingNeuron):
    """`neuron` with faults at `places`, flattened over the layer, and the value of each (see `Fault`). It has no gradient."""

    def __init__(self, neuron: SpikingNeuron, places: Tensor, values: Tensor, parameter: str | None) -> None:
        super().__init__(neuron.dynamics)
        if parameter is not None and type(neuron) is not SpikingNeuron:
            raise ConfigError(
                f"Faults of a neuron's {parameter} are those of leaky integrate-and-fire neurons, got {type(neuron).__name__}."
            )
        self.neuron, self.places, self.values, self.parameter = neuron, places, values, parameter

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        spikes, membrane = self.neuron._run(current, steps, keep)
        found = spikes.flatten(2).clone()
        if self.parameter is None:
            found[:, :, self.places] = self.values
        else:
            found[:, :, self.places] = self._fired(current.flatten(2)[:, :, self.places].expand(len(spikes), -1, -1))
        return found.view(spikes.shape), membrane

    def _fired(self, current: Tensor) -> Tensor:
        """Spikes of neurons that each have their own parameter, for their currents [T, B, k]."""
        leak, threshold = (each.detach() for each in self.neuron.parameters_in_bounds())
        gain = 1 - leak if self.dynamics.gain == "leaky" else 1.0
        if self.parameter == "threshold":
            threshold = threshold * self.values
        else:
            leak = (leak * self.values).clamp_max(1.0)
        after, spikes = self.dynamics.initial * threshold, []
        for x in current * gain:
            membrane = leak * after + x
            spikes.append(((membrane > threshold) if self.dynamics.comparator == ">" else (membrane >= threshold)).to(x.dtype))
            after = membrane * (1 - spikes[-1]) if self.dynamics.reset == "hard" else membrane - spikes[-1] * threshold
        return torch.stack(spikes)


def neuron_sizes(network: SpikingNetwork, data: Dataset) -> dict[str, int]:
    """The neurons of each layer, by its name."""
    x = torch.from_numpy(data.batch(np.arange(1))[0])
    with frozen(network), torch.no_grad():
        counts = network.unroll(x, Draws(0, "faults/sizes", data.ids[:1])).spike_counts
    return {name: count[0].numel() for name, count in counts.items()}


def sites(network: SpikingNetwork, data: Dataset, kind: str) -> dict[str, int]:
    """What a fault of that kind can befall: neurons or synapses, by layer."""
    if kind not in FAULTS:
        raise ConfigError(f"Unknown fault {kind!r}. Known: {', '.join(FAULTS)}.")
    if FAULTS[kind].neuron:
        return neuron_sizes(network, data)
    return {name: weight.numel() for name, weight in weight_matrices(network).items()}


@contextmanager
def injected(network: SpikingNetwork, kind: str, places: Sequence[Place], values: Sequence[float]) -> Iterator[None]:
    """Inside, `network` has faults of that kind at `places`, each with its value."""
    fault, undo = FAULTS[kind], list[Callable[[], None]]()
    try:
        for layer in dict.fromkeys(place.layer for place in places):
            rows = [row for row, place in enumerate(places) if place.layer == layer]
            here = torch.tensor([places[row].place for row in rows])
            new = torch.tensor([values[row] for row in rows], dtype=torch.float32)
            undo.append(
                _faulty_layer(network, layer, here, new, fault.parameter) if fault.neuron else _write(network, layer, here, new)
            )
        yield
    finally:
        for take_back in undo:
            take_back()


def _faulty_layer(
    network: SpikingNetwork, layer: str, places: Tensor, values: Tensor, parameter: str | None
) -> Callable[[], None]:
    above, _, name = layer.rpartition(".")
    parent, neuron = network.get_submodule(above), network.get_submodule(layer)
    assert isinstance(neuron, SpikingNeuron)
    parent.register_module(name, FaultyNeurons(neuron, places, values, parameter))
    return lambda: parent.register_module(name, neuron)


def _write(network: nn.Module, tensor: str, places: Tensor, values: Tensor) -> Callable[[], None]:
    flat = weight_matrices(network)[tensor].detach().view(-1)
    before = flat[places].clone()

    def write(new: Tensor) -> None:
        flat[places] = new.to(flat)

    write(values)
    return lambda: write(before)


def fault_curve(
    network: SpikingNetwork, data: Dataset, kind: str, counts: Sequence[Amount], *, seeds: int = 5, layer: str | None = None
) -> tuple[Band, ...]:
    """The accuracy on `data` under each number of faults of one kind, for each seed, which draws where they are and their values. Those
    of a smaller number are among those of a larger one. `network` is as before afterwards.

    Args:
        counts: numbers of faults, or as floats shares of the places; those above the number of places count as that.
        layer: where the faults are: a layer of neurons, or a weight. Anywhere by default.

    Raises:
        ConfigError: an unknown kind or layer, or a parameter that the neurons do not have.
    """
    where = sites(network, data, kind)
    if layer is not None and layer not in where:
        raise ConfigError(f"There is no {layer!r} that a fault {kind!r} could befall. There are: {', '.join(where)}.")
    where = where if layer is None else {layer: where[layer]}
    if seeds < 1:
        raise ConfigError(f"Expected at least 1 seed of faults, got {seeds}.")
    tried = numbers(counts, sum(where.values()))
    columns = []
    for seed in range(seeds):
        places, values = _drawn(network, kind, where, tried[-1], stream(seed, f"faults/{kind}/{layer}"))
        column = list[Figure]()
        for count in tried:
            with injected(network, kind, places[:count], values[:count]):
                column.append(accuracy(network, data, seed=seed))
        columns.append(column)
    return by_count(tried, columns)


def _drawn(
    network: SpikingNetwork, kind: str, where: dict[str, int], count: int, generator: np.random.Generator
) -> tuple[list[Place], list[float]]:
    """That many places and their values."""
    places = [Place(*each) for each in drawn_places(where, count, generator)]
    weights = {} if FAULTS[kind].neuron else weight_matrices(network)
    values = np.zeros(count)
    for layer in where:
        rows = [row for row, place in enumerate(places) if place.layer == layer]
        here = np.array([places[row].place for row in rows], dtype=np.int64)
        known = weights[layer].detach().double().flatten().numpy() if layer in weights else np.zeros(0)
        values[rows] = FAULTS[kind].draw(generator, known, here)
    return places, values.tolist()
