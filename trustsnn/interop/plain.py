"""Imported models as plain values and back, so that they are saved, sealed and trained on like bundled ones: structure in JSON, tensors in
safetensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.errors import ConfigError
from trustsnn.interop.graph_model import GraphModel
from trustsnn.interop.nir_neurons import Delay, Integrator
from trustsnn.interop.nir_read import LARGEST, Scale
from trustsnn.models.branches import Branches
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import Dynamics, SpikingNeuron
from trustsnn.neurons.heterogeneous import Constants, Heterogeneous, held

Plain = dict[str, Any]

_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_SETTINGS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.Linear: ("in_features", "out_features"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "divisor_override"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    nn.Identity: (),
}
"""Layers that their constructor makes again from their attributes of the same names."""
_BY_NAME = {kind.__name__: kind for kind in _SETTINGS}


def described(layer: nn.Module) -> Plain:
    """A layer of an imported model as plain values, without its tensors; TypeError for another kind."""
    kind = type(layer)
    found: Plain = {"kind": kind.__name__}
    if kind in _SETTINGS:
        found |= {name: getattr(layer, name) for name in _SETTINGS[kind]}
        return found | ({"bias": layer.bias is not None} if "bias" in layer._parameters else {})
    if kind in (nn.Sequential, Branches):
        found["layers"] = named(layer)
        return found | ({"merge": layer.how} if isinstance(layer, Branches) else {})
    if isinstance(layer, SpikingNeuron) and kind in (SpikingNeuron, Heterogeneous):
        found["dynamics"] = layer.dynamics.to_dict()
    if isinstance(layer, Heterogeneous | Integrator):
        own = held(layer)
        values = {field.name: getattr(own, field.name) for field in fields(Constants)}
        return found | {"shapes": {name: list(value.shape) for name, value in values.items() if value is not None}}
    if kind is SpikingNeuron:
        return found
    if isinstance(layer, Scale | Delay):
        return found | {"shape": list((layer.scale if isinstance(layer, Scale) else layer.delay).shape)}
    raise TypeError(f"no plain form of {kind.__name__}")


def structure(model: SpikingNetwork | GraphModel) -> Plain:
    """What `build` makes a model of the same structure from, apart from its origin."""
    fed = {"sources": [list(of) for of in model.sources.values()]} if isinstance(model, GraphModel) else {}
    return {"layers": named(model.layers), "spec": model.spec.to_dict(), "seed": 0, "learn": False, **fed}


def named(layers: nn.Module) -> list[list[Any]]:
    """Each layer's name and description, in order."""
    return [[name, described(layer)] for name, layer in layers.named_children()]


def build(
    layers: Sequence[Sequence[Any]], spec: Mapping[str, Any], origin: Mapping[str, Any], sources: Sequence[Sequence[str]] | None = None,
    seed: int = 0, learn: bool = False,
) -> SpikingNetwork | GraphModel:  # fmt: skip
    """The model whose structure `named` and `ModelSpec.to_dict` describe, with fresh weights and constants of 1.

    Args:
        origin: what file it came from and how that was read, for the model's hash.
        sources: of each layer of a `GraphModel` the names of those that feed it. None for a `SpikingNetwork`.
        learn: train leak and threshold of layers of equal neurons.

    Raises:
        ConfigError, TypeError, ValueError, KeyError: these values describe no such model.
    """
    given = {"layers": layers, "spec": spec, "origin": origin} | ({} if sources is None else {"sources": sources})
    architecture = {"name": "nir", "arguments": {**given, "seed": seed, "learn": learn}}
    known = ModelSpec(**spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = [(name, _made(plain, learn)) for name, plain in layers]
    names = [name for name, _ in made]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"Expected layers of different names, got {names[:8]}.")
    if sources is None:
        sequence = nn.Sequential()
        for name, layer in made:
            sequence.add_module(name, layer)
        return SpikingNetwork(sequence, known, architecture).eval()
    fed = dict(zip(names, sources, strict=True))
    for place, name in enumerate(names):
        if not set(fed[name]) <= set(names[:place]):
            raise ConfigError(f"Expected {name!r} to be fed by layers before it, got {list(fed[name])[:8]}.")
    return GraphModel(nn.ModuleDict(dict(made)), fed, known, architecture).eval()


def _made(plain: Plain, learn: bool) -> nn.Module:
    settings = {name: _tuples(value) for name, value in plain.items() if name != "kind"}
    kind = plain["kind"]
    if kind in _BY_NAME:
        return _BY_NAME[kind](**settings)
    if kind in ("Sequential", "Branches"):
        children = [(name, _made(each, learn)) for name, each in plain["layers"]]
        found: nn.Module = nn.Sequential() if kind == "Sequential" else Branches(*([] for _ in children), merge=plain["merge"])
        for name, child in children:
            found.add_module(name, child)
        return found
    if kind == "SpikingNeuron":
        return SpikingNeuron(Dynamics(**plain["dynamics"]), learn=learn)
    if kind in ("Heterogeneous", "Integrator"):
        constants = Constants(**{name: _ones(shape) for name, shape in plain["shapes"].items()})
        return Integrator(constants) if kind == "Integrator" else Heterogeneous(constants, Dynamics(**plain["dynamics"]))
    if kind in ("Scale", "Delay"):
        ones = _ones(plain["shape"])
        return Scale(ones) if kind == "Scale" else Delay(ones.long())
    raise ConfigError(f"Expected a kind of layer that imported models have, got {kind!r}.")


def _ones(shape: Sequence[int]) -> Tensor:
    if math.prod(shape) > LARGEST:
        raise ConfigError(f"Expected at most {LARGEST:,} values of a layer, got the shape {list(shape)}.")
    return torch.ones(tuple(shape))


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
