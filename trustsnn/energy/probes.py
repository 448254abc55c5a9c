"""A network that tells a tally what its layers get and give, with the same results as the network itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.energy.operations import WEIGHTED
from trustsnn.energy.tally import Tally
from trustsnn.kernels.lif import Keep
from trustsnn.models.branches import Branches
from trustsnn.models.flow import inputs_of
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.synapses import Synapses

_ACTIVATIONS = (nn.ReLU, nn.Sigmoid)  # as in NeuroBench


class _Tap(nn.Module):
    """The identity, which tells of what goes through it."""

    def __init__(self, tell: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._tell = tell

    def forward(self, h: Tensor) -> Tensor:
        self._tell(h)
        return h


class _Watched(SpikingNeuron):
    """`neuron`, which tells of its spikes and membranes."""

    def __init__(self, neuron: SpikingNeuron, tally: Tally, name: str) -> None:
        super().__init__(neuron.dynamics)
        self.neuron, self._tally, self._name = neuron, tally, name

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        spikes, membrane = self.neuron._run(current, steps, "full")
        self._tally.gave(self._name, spikes, self._updates(spikes, membrane) if self.neuron.binary else None)
        return spikes, membrane

    def _updates(self, spikes: Tensor, membrane: Tensor) -> Tensor:
        after = self.neuron._after(membrane, spikes)
        changed = (after[1:] != after[:-1]).transpose(0, 1).flatten(1).sum(1)
        return changed + after[0, 0].numel()


@contextmanager
def observed(model: nn.Module, tally: Tally) -> Iterator[nn.Module]:
    """What computes as `model` does and writes to `tally`: of a `SpikingNetwork` a copy with probes, of another module itself, with hooks
    for as long as the context lasts."""
    running = _with_probes(model, tally) if isinstance(model, SpikingNetwork) else model
    hooks = [running.register_forward_pre_hook(lambda module, inputs: tally.forward(len(inputs[0])))]
    if running is model:
        hooks += _hooks(model, tally)
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


def _with_probes(network: SpikingNetwork, tally: Tally) -> SpikingNetwork:
    averages = {name for name, flow in inputs_of(network).items() if flow.kind == "averages"}
    found = SpikingNetwork(
        _tapped(copy.deepcopy(network.layers), "layers.", tally, averages, 1), network.spec, network.architecture
    )
    found.memory, found.sensor = network.memory, copy.deepcopy(network.sensor)
    return found.eval()


def _tapped(layers: nn.Sequential, prefix: str, tally: Tally, averages: set[str], area: int) -> nn.Sequential:
    """The layers with probes. `averages`: those that get averages of spikes; `area`: over how many spikes went what comes in."""
    found = nn.Sequential()
    for key, layer in layers.named_children():
        name = prefix + key
        if isinstance(layer, Branches):
            for branch, part in layer.named_children():
                layer._modules[branch] = _tapped(part, f"{name}.{branch}.", tally, averages, area)  # type: ignore[arg-type]
            if layer.how == "attention":
                _tap_attention(layer, name, tally)
        elif isinstance(layer, SpikingNeuron):
            layer, area = _Watched(layer, tally, name), 1
        elif isinstance(layer, nn.AvgPool2d):
            size = layer.kernel_size
            area *= prod(size) if isinstance(size, tuple) else size**2
        elif Synapses.can(layer):
            averaged = area if name in averages else None
            found.add_module(f"{key}-in", _Tap(partial(tally.fed, name, layer, constant=True, averaged=averaged)))
        found.add_module(key, layer)
    return found


def _tap_attention(branches: Branches, name: str, tally: Tally) -> None:
    parts: list[Tensor] = []

    def tell(h: Tensor) -> None:
        parts.append(h)
        if len(parts) == len(branches):
            most = max(len(part) for part in parts)
            tally.attended(name, branches.heads, [torch.cat([part] * (most // len(part))) for part in parts])
            parts.clear()

    for branch in branches:
        branch.add_module("out", _Tap(tell))


def _hooks(model: nn.Module, tally: Tally) -> list[Any]:
    """Hooks on the layers with weights, and on neurons and activations."""
    foreign = {neuron.layer: neuron.name for neuron in getattr(model, "foreign_neurons", ())}
    hooks: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            hooks.append(module.register_forward_pre_hook(_fed(tally, name)))
        elif isinstance(module, (SpikingNeuron, *_ACTIVATIONS)) or module in foreign:
            hooks.append(module.register_forward_hook(_gave(tally, name)))
    return hooks


def _fed(tally: Tally, name: str) -> Callable[[nn.Module, Any], None]:
    return lambda layer, inputs: tally.fed(name, layer, inputs[0])


def _gave(tally: Tally, name: str) -> Callable[[nn.Module, Any, Any], None]:
    """Neurons of some frameworks give their state too, after their spikes."""
    return lambda layer, inputs, output: tally.gave(name, output if isinstance(output, Tensor) else output[0])
