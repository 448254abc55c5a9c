"""What a chip makes of a network, as one small interface: its weights, its neurons, its spikes, its input."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import SpikingNeuron
from trustsnn.rng import stream
from trustsnn.settings import check_settings


@dataclass(frozen=True)
class Chip:
    """One specimen of a chip: two of them with the same seed and number are the same one."""

    number: int = 0
    seed: int = 0

    def draws(self, *names: object) -> np.random.Generator:
        """The random draws for one purpose on this chip, the same at every call."""
        return stream(self.seed, "/".join(["chip", *map(str, names)]), str(self.number))


@dataclass(frozen=True)
class Layer:
    """Where a part of a twin works: the chip, and the layer of the network by its name.

    Of weights also `synapses`, the layer as the network has it before any twin, and whether it is the `first` one.
    """

    chip: Chip
    name: str
    synapses: nn.Conv2d | nn.Linear | None = None
    first: bool = False

    def draws(self, *names: object) -> np.random.Generator:
        """The random draws for one purpose in this layer of this chip."""
        return self.chip.draws(self.name, *names)


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A chip's deviations from the network that it runs. Each method is one of them, and leaves things as they are unless a twin says
    otherwise.

    The network comes with its normalisation folded in, so that a layer is weights [out, in, ...], a bias that the chip adds digitally,
    and neurons. What is drawn once for a chip comes from the `layer` that is given, so that a chip is the same whatever ran before. What is
    drawn at each use of it is a `trustsnn.models.gates.Drawn` module, which makes the network stochastic.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_settings(self, f"twin {self.name!r}")

    @property
    def stochastic(self) -> bool:
        """Whether one chip differs from the next."""
        return True

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """What the chip multiplies by instead of `weight` [out, in, ...]: programmed, aged and read."""
        return weight

    def bias(self, bias: Tensor, layer: Layer) -> Tensor:
        """What the chip adds instead of `bias` [out]."""
        return bias

    def inputs(self, layer: Layer) -> nn.Module | None:
        """What happens to the inputs [T * B, in, ...] of a layer's weights (a converter to analog), None for nothing."""
        return None

    def outputs(self, layer: Layer) -> nn.Module | None:
        """What happens to the sums [T * B, out, ...] of a layer, bias included (noise, a converter to digital), None for nothing."""
        return None

    def neuron(self, neuron: SpikingNeuron, layer: Layer) -> SpikingNeuron:
        """The neurons that the chip has in place of `neuron`."""
        return neuron

    def currents(self, layer: Layer) -> nn.Module | None:
        """What happens to the currents [T * B, ...] on their way into a layer of neurons, None for nothing."""
        return None

    def transport(self, layer: Layer, steps: int) -> nn.Module | None:
        """What happens to the spikes [T * B, ...] of a layer of neurons on their way, None for nothing. Spikes that are the network's
        output are not asked about: they are counted where they are."""
        return None

    def sensor(self, spec: ModelSpec, chip: Chip) -> nn.Module | None:
        """What happens to an input [B, *spec.input_shape] before the network, None for nothing. What draws there is a `Drawn` module
        too, over the one time step `range(1)`."""
        return None

    def fitted(self, layers: nn.Sequential, spec: ModelSpec) -> Twin:
        """The twin for a network of these layers, whose normalisation is folded in: for chips on which weights, thresholds and biases
        share a scale. Itself, where each part of a network stands alone."""
        return self

    def check(self, network: nn.Module) -> None:
        """ConfigError where the twin cannot run the network."""

    def describe(self) -> dict[str, Any]:
        """Name and settings, plain values."""
        return {"name": self.name, **dataclasses.asdict(self)}
