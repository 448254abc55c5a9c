"""What each layer with weights is fed with: spikes, or something that costs a multiplication."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.models.branches import MERGES, Branches
from trustsnn.models.gates import Gate
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.synapses import Synapses

Kind = Literal["spikes", "averages", "encoder", "sums", "real"]

_PASSING = (Gate, nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)  # 0 and 1 in, 0 and 1 out
_BINARY_CODES = ("poisson", "latency", "rank-order")


class Flow(NamedTuple):
    """What flows into a layer: "spikes" (0 and 1), "averages" of spikes over a window (each spike adds a fixed share of a
    weight), what the "encoder" gives, "sums" of spikes (whole numbers), or other "real" values; `what` says it in words."""

    kind: Kind
    what: str


_SPIKES = Flow("spikes", "spikes")


def inputs_of(network: SpikingNetwork) -> dict[str, Flow]:
    """The input of each convolution, linear layer and attention of a network, by its name, after the network's structure. It
    holds whatever the weights and the data: a sum of spikes that happens to be 0 or 1 is a sum of spikes."""
    found: dict[str, Flow] = {}
    spec = network.spec
    binary = spec.encoder in _BINARY_CODES or spec.domain == "events-binary"
    coded = _SPIKES if binary else Flow("encoder", f"what the encoder {spec.encoder!r} gives")
    _walk(network.layers, "layers.", coded, found)
    return found


def _walk(layers: nn.Module, prefix: str, flow: Flow, found: dict[str, Flow]) -> Flow:
    for key, layer in layers.named_children():
        name = prefix + key
        if isinstance(layer, SpikingNeuron):
            flow = _SPIKES if layer.binary else Flow("real", f"activations of {name} ({type(layer).__name__})")
        elif isinstance(layer, Branches):
            flow = _merged(
                layer, name, [_walk(branch, f"{name}.{k}.", flow, found) for k, branch in layer.named_children()], found
            )
        elif Synapses.can(layer):
            found[name] = flow
            flow = Flow("real", f"currents of {name}")
        elif isinstance(layer, nn.AvgPool2d) and flow.kind in ("spikes", "averages"):
            flow = Flow("averages", f"averages of spikes ({name})")
        elif not (isinstance(layer, _PASSING) or (isinstance(layer, nn.Upsample) and layer.mode == "nearest")):
            flow = Flow("real", f"what {type(layer).__name__} gives ({name})")
    return flow


def _merged(branches: Branches, name: str, flows: list[Flow], found: dict[str, Flow]) -> Flow:
    if branches.how == "attention":
        found[name] = Flow("real", "products of attention: Q K^T, whole numbers, times V")
        return Flow("real", f"products of attention ({name})")
    if MERGES[branches.how].spikes and all(flow.kind == "spikes" for flow in flows):
        return _SPIKES
    if all(flow.kind in ("spikes", "sums") for flow in flows):
        return Flow("sums", f"sums of spikes ({name}, {branches.how})")
    return Flow("real", f"currents ({name}, {branches.how})")


def observed_inputs(module: nn.Module, x: Tensor) -> dict[str, Flow]:
    """The same for any module, by what flows when it computes the batch `x`: each convolution, linear layer, and activation
    that is not a spike (GELU, softmax, ...). What is no module of its own is not seen."""
    found: dict[str, Flow] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[object, ...]) -> None:
            given = inputs[0]
            if isinstance(given, Tensor) and isinstance(layer, _WEIGHTS):
                flow = _SPIKES if bool(((given == 0) | (given == 1)).all()) else Flow("real", "values other than 0 and 1")
                if flow.kind == "real" and given.numel() >= x.numel() and torch.equal(given.flatten()[: x.numel()], x.flatten()):
                    flow = Flow("encoder", "the input itself")
                if name not in found or found[name].kind != "real":  # a module that runs every step keeps its worst
                    found[name] = flow
            elif not isinstance(layer, _WEIGHTS):
                found[name] = Flow("real", f"an activation, {type(layer).__name__}")

        return hook

    hooks = [
        layer.register_forward_pre_hook(watch(name))
        for name, layer in module.named_modules()
        if isinstance(layer, _WEIGHTS) or type(layer).__module__ == "torch.nn.modules.activation"
    ]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


_WEIGHTS = (nn.modules.conv._ConvNd, nn.Linear)
