"""A network as it runs on a chip."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.hardware.twin import Chip, Layer, Twin
from trustsnn.models.branches import Branches
from trustsnn.models.gates import Drawn
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.synapses import Synapses


def deploy(network: SpikingNetwork, twins: Sequence[Twin], chip: Chip | None = None) -> SpikingNetwork:
    """A copy of `network` as it runs on one chip, whose deviations are those of all `twins`, one after the other.

    Normalisation is folded into the weights, then each layer goes through the twins. The copy is in eval mode and stochastic where the
    network is or a twin draws for each sample. `network` stays as it is.

    Raises:
        ConfigError: a twin cannot run such a network.
    """
    if not isinstance(network, SpikingNetwork):
        raise ConfigError(
            f"A hardware twin runs networks of trustsnn's layers, got {type(network).__name__}. Build the network with "
            "trustsnn.models.build, or load a checkpoint."
        )
    for twin in twins:
        twin.check(network)
    chip = chip or Chip()
    with torch.no_grad():
        layers = folded(network.layers)
        twins = [twin.fitted(layers, network.spec) for twin in twins]
        first = next((name for name, layer in layers.named_modules() if Synapses.can(layer)), "")
        layers = _on_chip(layers, twins, chip, "", network.spec.steps, first)
    while network.spec.readout == "spike-count" and not isinstance(layers[-1], SpikingNeuron):
        layers._modules.popitem()  # what comes behind the spikes that are the output
    sensors = [sensor for twin in twins if (sensor := twin.sensor(network.spec, chip)) is not None]
    stochastic = network.spec.stochastic or any(isinstance(module, Drawn) for module in [*layers.modules(), *sensors])
    deployed = SpikingNetwork(layers, replace(network.spec, stochastic=stochastic), {"name": "chip", "of": network.architecture})
    deployed.memory = network.memory
    if sensors:
        deployed.sensor = nn.Sequential(*sensors).to(next(network.parameters()).device)
    return deployed.eval()


def folded(layers: nn.Sequential) -> nn.Sequential:
    """A copy of the layers of a network in which each batch normalisation is one with the convolution or linear layer before it.

    Computed in float64 and rounded once. Other normalisations stay where they are.
    """
    found = nn.Sequential()
    children = list(layers.named_children())
    while children:
        name, layer = children.pop(0)
        copied = copy.deepcopy(layer)
        if isinstance(layer, Branches):
            for key, branch in layer.named_children():
                copied._modules[key] = folded(branch)  # type: ignore[arg-type]
        elif Synapses.can(layer) and children and isinstance(children[0][1], nn.BatchNorm1d | nn.BatchNorm2d):
            _, norm = children.pop(0)
            weights = Synapses(copy.deepcopy(layer).double(), copy.deepcopy(norm).double())  # type: ignore[arg-type]
            assert weights.bias is not None
            copied.weight = nn.Parameter(weights.weight.reshape(copied.weight.shape).to(copied.weight))  # type: ignore[arg-type]
            copied.bias = nn.Parameter(weights.bias.to(copied.weight))
        found.add_module(name, copied)
    return found


def _on_chip(layers: nn.Sequential, twins: Sequence[Twin], chip: Chip, prefix: str, steps: int, first: str) -> nn.Sequential:
    found = nn.Sequential()
    for name, layer in layers.named_children():
        where = Layer(chip, prefix + name)
        if isinstance(layer, Branches):
            for key, branch in layer.named_children():
                layer._modules[key] = _on_chip(branch, twins, chip, f"{prefix}{name}.{key}.", steps, first)  # type: ignore[arg-type]
        elif Synapses.can(layer):
            where = replace(where, synapses=copy.deepcopy(layer), first=where.name == first)  # type: ignore[arg-type]
            for twin in twins:
                layer.weight = nn.Parameter(twin.weights(layer.weight.detach(), where))  # type: ignore[operator]
                if layer.bias is not None:
                    layer.bias = nn.Parameter(twin.bias(layer.bias.detach(), where))  # type: ignore[operator]
            for number, module in _around(twins, "inputs", where):
                found.add_module(f"{name}-in-{number}", module)
        elif isinstance(layer, SpikingNeuron):
            for twin in twins:
                layer = twin.neuron(layer, where)
            for number, module in _around(twins, "currents", where):
                found.add_module(f"{name}-current-{number}", module)
        found.add_module(name, layer)
        if isinstance(layer, SpikingNeuron):
            for number, twin in enumerate(twins):
                if (transport := twin.transport(where, steps)) is not None:
                    found.add_module(f"{name}-spikes-{number}", transport)
        elif Synapses.can(layer):
            for number, module in _around(twins, "outputs", where):
                found.add_module(f"{name}-out-{number}", module)
    return found


def _around(twins: Sequence[Twin], which: str, where: Layer) -> Iterator[tuple[int, nn.Module]]:
    """The modules that the twins put before or behind a layer."""
    for number, twin in enumerate(twins):
        module = getattr(twin, which)(where)
        if module is not None:
            yield number, module
