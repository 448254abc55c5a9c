"""A network as affine maps and layers of LIF neurons in turn: what bounds are computed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from trustsnn.conversion.segments import check_sequential, segments
from trustsnn.errors import ConfigError
from trustsnn.models.network import Runs, SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.synapses import Synapses

UNIT = 2.0**-24  # what float32 rounds by, relative
_READOUTS = ("membrane", "spike-count")
Apply = Callable[[Tensor], Tensor]


class Map(NamedTuple):
    """An affine map of batches, x -> W x + b.

    apply: [N, *in] -> [N, *out]. spread: the same with |W| and without b. back: [N, *out] -> [N, *in], by W transposed.
    bias: b, such that it can be expanded to [N, *out]. terms: how many products an output adds, at most.
    """

    apply: Apply
    spread: Apply
    back: Apply
    bias: Tensor
    terms: int


@dataclass(frozen=True)
class Lif:
    """A layer of neurons: u_t = leak v_{t-1} + gain x_t, which fires at u >= V, or u > V if `strict`; then v = 0 (`hard`) or u - V."""

    leak: Tensor
    threshold: Tensor
    gain: Tensor
    start: Tensor
    hard: bool
    strict: bool
    neuron: SpikingNeuron

    def fires(self, membrane: Tensor) -> Tensor:
        """Whether a membrane fires, boolean."""
        return membrane > self.threshold if self.strict else membrane >= self.threshold


class Block(NamedTuple):
    """Affine maps and the neurons that take their result [*shape] a step as current; the readout has none."""

    maps: tuple[Map, ...]
    shape: tuple[int, ...]
    lif: Lif | None


class Layers(NamedTuple):
    """A network of T steps whose first currents are the same at every step; logits are the mean over time of what the last block gives."""

    blocks: tuple[Block, ...]
    steps: int


def check_network(model: nn.Module) -> SpikingNetwork:
    """`model`; ConfigError where bounds through its layers are not known."""
    if type(model) is not SpikingNetwork:
        raise ConfigError(
            f"Expected a network of layers (mlp, conv, vgg9, vgg11), got {type(model).__name__}: no bounds are known for it."
        )
    check_sequential(model)
    spec = model.spec
    if (spec.domain, spec.encoder) != ("image", "direct"):
        mend = " Take the method 'rate' for it." if spec.encoder == "poisson" else ""
        raise ConfigError(
            f"Expected a network of images with the encoder 'direct', got {spec.domain!r} with {spec.encoder!r}: bounds follow a constant "
            f"current.{mend}"
        )
    odd = [type(m).__name__ for m in model.modules() if isinstance(m, SpikingNeuron) and type(m) is not SpikingNeuron]
    if spec.readout not in _READOUTS or odd:
        raise ConfigError(
            f"Expected LIF neurons and a readout of {' or '.join(_READOUTS)}, got the readout {spec.readout!r}"
            f"{' and neurons of type ' + odd[0] if odd else ''}."
        )
    return model


def layers_of(network: SpikingNetwork, dtype: torch.dtype) -> Layers:
    """The network in `dtype`; inside `frozen(network)` with the weights that its forward pass uses, normalisation folded in. In training
    its own layers, which let gradients through to their parameters, and normalisation by the running statistics."""
    blocks, shape = [], tuple(network.spec.input_shape)
    for _, stages, neuron in segments(network):
        maps = []
        for name, stage in stages:
            made, shape = _map(name, stage, shape, dtype)
            maps += [made] if made else []
        blocks.append(Block(tuple(maps), shape, _lif(neuron, dtype) if neuron is not None else None))
    return Layers(tuple(blocks), network.spec.steps)


def _lif(neuron: SpikingNeuron, dtype: torch.dtype) -> Lif:
    leak, threshold = (each.to(dtype) for each in neuron.parameters_in_bounds())
    dynamics = neuron.dynamics
    gain = 1 - leak if dynamics.gain == "leaky" else torch.ones_like(leak)
    return Lif(leak, threshold, gain, dynamics.initial * threshold, dynamics.reset == "hard", dynamics.comparator == ">", neuron)


def _map(name: str, stage: Runs, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Map | None, tuple[int, ...]]:
    """The stage as a map, None where it only passes on, and the shape of what it gives for one sample of `shape`."""
    if isinstance(stage, nn.Identity | nn.Dropout | nn.Dropout2d):
        return None, shape
    if isinstance(stage, nn.Flatten):
        flat = Map(_flat, _flat, partial(_shaped, shape=shape), torch.zeros(1, dtype=dtype), 0)
        return flat, (torch.Size(shape).numel(),)
    if isinstance(stage, Synapses):
        made = _linear(stage, dtype) if stage.flat else _convolution(stage, shape, dtype)
    elif isinstance(stage, nn.AvgPool2d):
        made = _pool(stage, shape, dtype)
    elif isinstance(stage, nn.BatchNorm1d | nn.BatchNorm2d) and stage.running_mean is not None:
        made = _norm(stage, shape, dtype)
    else:
        raise ConfigError(
            f"No bounds are known through layers.{name} ({type(stage).__name__}). Known: convolution, linear, batch normalisation, average "
            "pooling, LIF neurons."
        )
    with torch.no_grad():
        out = made.apply(torch.zeros((1, *shape), dtype=dtype))
    return made, tuple(out.shape[1:])


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def _shaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.view(-1, *shape)


def _linear(stage: Synapses, dtype: torch.dtype) -> Map:
    weight = stage.weight[:, :, 0, 0].to(dtype)
    bias = torch.zeros(1, dtype=dtype) if stage.bias is None else stage.bias.to(dtype)
    return Map(
        lambda x: F.linear(x, weight) + bias, lambda r: F.linear(r, weight.abs()), lambda a: a @ weight, bias, weight.shape[1]
    )  # fmt: skip


def _convolution(stage: Synapses, shape: tuple[int, ...], dtype: torch.dtype) -> Map:
    weight, g = stage.weight.to(dtype), stage.geometry
    bias = torch.zeros(1, 1, 1, dtype=dtype) if stage.bias is None else stage.bias.to(dtype)[:, None, None]
    geometry: dict[str, Any] = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
    return Map(
        lambda x: F.conv2d(x, weight, None, **geometry) + bias,
        lambda r: F.conv2d(r, weight.abs(), None, **geometry),
        lambda a: conv2d_input((len(a), *shape), weight, a, **geometry),
        bias,
        weight[0].numel(),
    )


def _pool(stage: nn.AvgPool2d, shape: tuple[int, ...], dtype: torch.dtype) -> Map:
    def back(a: Tensor) -> Tensor:
        whole = torch.zeros((len(a), *shape), dtype=a.dtype)
        pooled = torch.ops.aten.avg_pool2d_backward(
            a, whole, _pair(stage.kernel_size), _pair(stage.stride), _pair(stage.padding), stage.ceil_mode,
            stage.count_include_pad, stage.divisor_override,
        )  # fmt: skip
        return torch.as_tensor(pooled)

    high, wide = _pair(stage.kernel_size)
    return Map(stage.forward, stage.forward, back, torch.zeros(1, dtype=dtype), high * wide)


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _norm(stage: nn.BatchNorm1d | nn.BatchNorm2d, shape: tuple[int, ...], dtype: torch.dtype) -> Map:
    assert stage.running_mean is not None
    assert stage.running_var is not None
    scale = torch.rsqrt(stage.running_var + stage.eps)
    scale = scale * stage.weight if stage.affine else scale
    shift = -stage.running_mean * scale + (stage.bias if stage.affine else 0.0)
    scale, shift = (each.to(dtype).view(-1, *[1] * (len(shape) - 1)) for each in (scale, shift))
    return Map(lambda x: x * scale + shift, lambda r: r * scale.abs(), lambda a: a * scale, shift, 2)
