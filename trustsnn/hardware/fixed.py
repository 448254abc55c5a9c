"""What digital chips share: layers of neurons with the weights before them on one scale, and networks that they cannot run."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from torch import Tensor, nn

from trustsnn.errors import ConfigError
from trustsnn.hardware.deploy import folded
from trustsnn.hardware.twin import Layer, Twin
from trustsnn.models.gates import Drawn
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.synapses import Synapses
from trustsnn.settings import check_choice

ANALOGUE = ("direct", "frequency", "single-spike")  # encoders of numbers, where the others give spikes
TINY = 1e-30  # in place of a largest weight of 0
_LEFT_ALONE = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, Drawn)


class Core(NamedTuple):
    """A layer of neurons and the weights before it, which a chip has on one scale.

    weight [out, in, ...], bias [out] or None: in the network's units. neurons: None behind the last weights, whose sums are the
    output. analogue: the inputs are numbers, not spikes. pool: spikes that average pooling puts into one input of the weights.
    most: the largest input.
    """

    weight: Tensor
    bias: Tensor | None
    neurons: SpikingNeuron | None
    analogue: bool
    pool: int
    most: float

    @property
    def threshold(self) -> float:
        """V of the neurons; 1 where there are none."""
        return float(self.neurons.parameters_in_bounds()[1]) if self.neurons is not None else 1.0

    @property
    def leak(self) -> float:
        """The leak of the neurons; 1 where there are none."""
        return float(self.neurons.parameters_in_bounds()[0]) if self.neurons is not None else 1.0

    @property
    def gain(self) -> float:
        """What the neurons multiply their current by: 1, or 1 - leak."""
        return 1 - self.leak if self.neurons is not None and self.neurons.dynamics.gain == "leaky" else 1.0

    @property
    def largest(self) -> float:
        """The largest |weight| of one spike, average pooling included."""
        return max(float(self.weight.abs().max()) * self.gain / self.pool, TINY)

    @property
    def largest_bias(self) -> float:
        """The largest |bias|."""
        return max(float(self.bias.abs().max()) * self.gain if self.bias is not None else 0.0, TINY)

    @property
    def largest_sum(self) -> float:
        """What no |sum| of the layer without its bias exceeds, whatever the input."""
        flat = self.weight.double().flatten(1) * self.gain
        return max(self.most * max(float(flat.clamp(min=0).sum(1).max()), float(-flat.clamp(max=0).sum(1).min())), TINY)


def cores(layers: nn.Sequential, spec: ModelSpec) -> dict[str, Core]:
    """The cores of a sequence of layers, whose normalisation is folded in, by the names of their weights and of their neurons.

    Raises:
        ConfigError: a layer that a digital chip does not have.
    """
    found: dict[str, Core] = {}
    analogue, pool, most = spec.encoder in ANALOGUE, 1, float(spec.max_count or 1)
    before: tuple[str, nn.Module] | None = None
    for name, layer in layers.named_children():
        if isinstance(layer, SpikingNeuron):
            check_plain(layer, name)
            if before is None:
                raise ConfigError(
                    f"Neurons of a digital chip are behind weights, those at {name!r} are not. Put a layer before them."
                )
            found[before[0]] = found[name] = _core(before[1], layer, analogue, pool, most)
            before, analogue, pool, most = None, False, 1, 1.0
        elif Synapses.can(layer) and (before is None or analogue):
            if before is not None:
                found[before[0]] = _core(before[1], None, analogue, pool, most)
            before = name, layer
        elif isinstance(layer, nn.AvgPool2d) and (before is None or analogue):
            pool *= 1 if analogue else _pooled(name, layer)
        elif not isinstance(layer, _LEFT_ALONE) or (isinstance(layer, nn.Flatten) and before is not None and not analogue):
            raise ConfigError(
                "A digital chip runs one sequence of layers: convolutions or linear layers with batch normalisation, neurons "
                f"behind each, average pooling behind neurons. Got {type(layer).__name__} at {name!r}. Build the network as 'mlp', "
                "'conv' or 'vgg9' with norm='batch'."
            )
    if before is not None:
        found[before[0]] = _core(before[1], None, analogue, pool, most)
    return found


def _core(layer: nn.Module, neurons: SpikingNeuron | None, analogue: bool, pool: int, most: float) -> Core:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    bias = layer.bias.detach() if layer.bias is not None else None
    return Core(layer.weight.detach(), bias, neurons, analogue, pool, most)


def check_plain(neuron: SpikingNeuron, name: str) -> None:
    """ConfigError unless these neurons are as a digital chip makes its own of."""
    if type(neuron) not in (SpikingNeuron, Calibrated):
        raise ConfigError(
            f"A digital chip has plain LIF and IF neurons, got {type(neuron).__name__} at {name!r}. Give it a network of such "
            "neurons, and no other twin that replaces them."
        )


def _pooled(name: str, layer: nn.AvgPool2d) -> int:
    kernel, stride = ((size, size) if isinstance(size, int) else tuple(size) for size in (layer.kernel_size, layer.stride))
    if kernel != stride or layer.padding not in (0, (0, 0)) or layer.divisor_override is not None:
        raise ConfigError(f"A digital chip adds up the spikes of windows that do not overlap, got {layer} at {name!r}.")
    return math.prod(kernel)


@dataclass(frozen=True, kw_only=True)
class Digital(Twin):
    """Base of the digital chips: their arithmetic is exact, so that one chip is as the other.

    A subclass says by `obstacles` what a network asks for that the chip does not have. With `approximate` the chip's own takes
    its place, else the network is refused.
    """

    name: ClassVar[str]

    approximate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"twin {self.name!r}", "approximate", self.approximate, (True, False))

    @property
    def stochastic(self) -> bool:
        """No chip differs from the next."""
        return False

    def fitted(self, layers: nn.Sequential, spec: ModelSpec) -> Self:
        """With the scales of a network's layers."""
        found = copy.copy(self)
        object.__setattr__(found, "_cores", cores(layers, spec))
        return found

    def core(self, layer: Layer) -> Core:
        """The core that a layer of weights or neurons belongs to."""
        return self._cores[layer.name]  # type: ignore[attr-defined, no-any-return]

    def neuron(self, neuron: SpikingNeuron, layer: Layer) -> SpikingNeuron:
        """The chip's neurons."""
        check_plain(neuron, layer.name)
        return self.replaced(neuron, self.core(layer))

    def replaced(self, neuron: SpikingNeuron, core: Core) -> SpikingNeuron:
        """The chip's neurons in place of those of a core."""
        raise TypeError(f"{type(self).__name__} does not say what its neurons are.")

    def obstacles(self, found: list[Core], spec: ModelSpec) -> Iterator[str]:
        """What the chip does not have, and how to mend it, one sentence each."""
        yield from ()

    def check(self, network: nn.Module) -> None:
        """ConfigError where the chip cannot run the network."""
        assert isinstance(network, SpikingNetwork)
        found = list({id(core): core for core in cores(folded(network.layers), network.spec).values()}.values())
        against = list(dict.fromkeys(self.obstacles(found, network.spec)))
        if against and not self.approximate:
            raise ConfigError(
                f"The twin {self.name!r} cannot run this network. {' '.join(against)} Or set approximate=true: the chip's own "
                "then takes the place of each of these."
            )


def emitted(membrane: Tensor, threshold: int, most: int | None = None) -> Tensor:
    """How many spikes a neuron sends in a step whose threshold is subtracted for each, int64."""
    return (membrane // threshold).clamp(min=0, max=most)
