"""From a NIR graph to a model: a `SpikingNetwork` where its layers and branches make one, else a `GraphModel`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trustsnn.encoders import encoder as find_encoder
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.interop.graph_model import GraphModel
from trustsnn.interop.nir_graph import Graph
from trustsnn.interop.nir_neurons import SPIKING, TIMED, Timed, layer_of
from trustsnn.interop.nir_settings import Settings
from trustsnn.models import SpikingNetwork
from trustsnn.models.branches import Branches
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.estimator import neurons_of
from trustsnn.neurons.heterogeneous import Heterogeneous

LARGEST = 1 << 27  # values that a layer may give for one sample and step


class Scale(nn.Module):
    """x times a constant of each element, the buffer `scale`."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return x * self.scale


def model_of(graph: Graph, settings: Settings, digest: str) -> SpikingNetwork | GraphModel:
    """The model of a graph; `digest` is the file's SHA-256, for the model's hash. Raises as `trustsnn.interop.nir.read` does."""
    whole = settings.completed(graph.metadata)
    order, sources = _order(graph)
    layers = {name: _layer(graph, name, settings) for name in order}
    shape, classes = _shapes(graph, order, sources, layers)
    last = sources[order[-1]]
    while len(last) == 1 and isinstance(layers[last[0]], nn.Identity):
        last = sources[last[0]]
    spec = _spec(graph, whole, shape, classes, layers[last[0]] if len(last) == 1 else None)
    if (spec.input_shape[1:] if spec.encoder == "frames" else spec.input_shape) != shape:
        layers[order[0]] = nn.Sequential(nn.Flatten(), nn.Unflatten(1, shape))
    stated = {key: getattr(whole, key) for key in ("dt", "reset", "comparator", "per")}
    architecture: dict[str, Any] = {"name": "nir", "arguments": {"origin": {"sha256": digest, **stated}}}
    plain = not any(isinstance(layer, Timed) for layer in layers.values())
    sequence = _sequence(order, sources, layers) if plain else None
    if sequence is None or not neurons_of(sequence):
        names = dict(zip(order, _module_names(order), strict=True))
        modules = nn.ModuleDict({names[name]: layers[name] for name in order})
        fed = {names[name]: [names[source] for source in sources[name]] for name in order}
        return GraphModel(modules, fed, spec, architecture).eval()
    return SpikingNetwork(sequence, spec, architecture).eval()


def _spec(graph: Graph, settings: Settings, shape: tuple[int, ...], classes: int, last: nn.Module | None) -> ModelSpec:
    if settings.time_steps is None:
        raise ConfigError(
            f"{graph.name}: NIR does not say how many time steps a forward pass has, and the file's metadata does not either. "
            f"Pass time_steps, as in {graph.name}:time_steps=25."
        )
    domain = settings.domain or "image"
    name = settings.encoder or ("direct" if domain == "image" else "frames")
    if (name == "frames") == (domain == "image"):
        raise ConfigError(f"The encoder {name!r} does not fit the domain {domain!r}: events take 'frames', images any other.")
    frames = (settings.time_steps,) if name == "frames" else ()
    given = settings.input_shape or (*frames, *shape)
    if math.prod(given) != math.prod((*frames, *shape)):
        raise ConfigError(f"{graph.name}: its input has the shape {list(shape)}, which does not hold samples {list(given)}.")
    readout = "spike-count" if isinstance(last, SpikingNeuron) else "membrane"
    stochastic = find_encoder(name).stochastic
    return ModelSpec(domain, given, classes, settings.time_steps, name, readout, stochastic, settings.max_count)


def _order(graph: Graph) -> tuple[list[str], dict[str, list[str]]]:
    """The nodes from the input to the output, each after those that feed it, and what feeds each."""
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        sources[target].append(source)
    waiting = {name: len(of) for name, of in sources.items()}
    ready, order = [name for name, count in waiting.items() if not count], []
    fed: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        fed[source].append(target)
    for kind, linked in (("Input", sources), ("Output", fed)):
        names = [name for name, node in graph.nodes.items() if node.kind == kind and not linked[name]]
        if len(names) != 1:
            raise UnsafeArtifactError(f"{graph.name}: expected one {kind} node, got {len(names)}: {names[:8]}.")
    while ready:
        name = ready.pop(0)
        order.append(name)
        for target in fed[name]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    for name, node in graph.nodes.items():
        if name not in order:
            graph.refuse(name, "it is in a circle or behind one: recurrent connections are not represented")
        if not sources[name] and node.kind != "Input":
            graph.refuse(name, "nothing leads to it")
        if not fed[name] and node.kind != "Output":
            graph.refuse(name, "nothing follows it")
    return order, sources


def _module_names(order: list[str]) -> list[str]:
    """Names that a module may have, one for each node."""
    found: list[str] = []
    for name in order:
        plain = name.replace(".", "-") or "-"
        taken = sum(1 for other in found if other == plain or other.startswith(f"{plain}--"))
        found.append(f"{plain}--{taken}" if taken else plain)
    return found


def _layer(graph: Graph, name: str, settings: Settings) -> nn.Module:
    node = graph.nodes[name]
    if node.kind in SPIKING or node.kind in TIMED:
        return layer_of(graph, name, settings)
    if node.kind in ("Input", "Output"):
        return nn.Identity()
    if node.kind == "Flatten":
        (start, end) = (int(graph.numbers(name, key).reshape(-1)[0]) for key in ("start_dim", "end_dim"))
        if not (-8 <= start <= 8 and -8 <= end <= 8):
            graph.refuse(name, f"expected axes to flatten, got {start} to {end}")
        return nn.Flatten(*(axis + 1 if axis >= 0 else axis for axis in (start, end)))
    if node.kind == "Scale":
        return Scale(_float(graph, name, "scale"))
    if node.kind.endswith("Pool2d"):
        return _pool(graph, name)
    weight = _float(graph, name, "weight")
    bias = _float(graph, name, "bias") if "bias" in node.values else None
    rank = {"Conv1d": 3, "Conv2d": 4}.get(node.kind, 2)
    if weight.dim() != rank or not weight.numel() or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [list(weight.shape), list(bias.shape) if bias is not None else None]
        graph.refuse(name, f"expected a weight of {rank} axes and a bias [out], got {shapes}")
    layer = _convolution(graph, name, weight) if rank > 2 else nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None
    return layer


def _float(graph: Graph, name: str, value: str) -> Tensor:
    return torch.tensor(graph.numbers(name, value), dtype=torch.float32)


def _pool(graph: Graph, name: str) -> nn.Module:
    kernel: Any
    stride: Any
    padding: Any
    kernel, stride = (graph.integers(name, key, 2, least=1) for key in ("kernel_size", "stride"))
    padding = graph.integers(name, "padding", 2)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        graph.refuse(name, f"expected a padding of at most half the kernel {list(kernel)}, got {list(padding)}")
    total = 1 if graph.nodes[name].kind == "SumPool2d" else None
    kernel, stride, padding = (value[0] if value[0] == value[1] else value for value in (kernel, stride, padding))
    return nn.AvgPool2d(kernel, stride, padding, divisor_override=total)


def _convolution(graph: Graph, name: str, weight: Tensor) -> nn.Conv1d | nn.Conv2d:
    count = weight.dim() - 2
    (groups,) = graph.integers(name, "groups", 1, least=1)
    stride, dilation = (graph.integers(name, key, count, least=1) for key in ("stride", "dilation"))
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    padding: Any = graph.nodes[name].values["padding"]
    if isinstance(padding, str):
        if padding == "valid":
            padding = (0,) * count
        elif padding == "same" and stride == (1,) * count and not any(r % 2 for r in reach):
            padding = tuple(r // 2 for r in reach)
        else:
            graph.refuse(
                name, f"the padding {padding!r} with a stride of {list(stride)} and a kernel of {list(weight.shape[2:])}"
            )
    else:
        padding = graph.integers(name, "padding", count)
    if any(p > r for p, r in zip(padding, reach, strict=True)) or weight.shape[0] % groups:
        graph.refuse(name, f"a padding of {list(padding)} beyond its kernel {list(weight.shape[2:])}, or {groups} groups")
    kind = nn.Conv1d if count == 1 else nn.Conv2d
    ins, size = weight.shape[1] * groups, tuple(weight.shape[2:])
    return kind(ins, weight.shape[0], size, stride, padding, dilation, groups, device="meta")  # type: ignore[arg-type]


def _shapes(
    graph: Graph, order: list[str], sources: Mapping[str, list[str]], layers: Mapping[str, nn.Module]
) -> tuple[tuple[int, ...], int]:
    """The shape of the graph's input without a batch, and the number of its outputs, where all layers fit each other."""
    entry, end = order[0], order[-1]
    shape, out = graph.integers(entry, "shape", least=1), graph.integers(end, "shape", least=1)
    tries = [shape, shape[1:]] if len(shape) > 1 and shape[0] == 1 else [shape]  # exporters leave a batch of 1 there
    for attempt, given in enumerate(tries):
        try:
            found = _flow(graph, order, sources, layers, given)[end]
            if len(found) != 1:
                graph.refuse(end, f"expected an output [K], got {list(found)}")
            break
        except UnsafeArtifactError:
            if attempt == len(tries) - 1:
                raise
    skewed = any(isinstance(layer, nn.Conv2d) and layer.kernel_size[0] != layer.kernel_size[1] for layer in layers.values())
    if math.prod(out) != found[0] and not skewed:  # nir takes every kernel for a square one
        graph.refuse(end, f"it claims the shape {list(out)}, its layers give {list(found)}")
    return given, found[0]


def _flow(
    graph: Graph, order: list[str], sources: Mapping[str, list[str]], layers: Mapping[str, nn.Module], shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """The shape that each node gives, without a batch."""
    found: dict[str, tuple[int, ...]] = {}
    for name in order:
        given = [found[source] for source in sources[name]] or [shape]
        if len(set(given)) > 1:
            graph.refuse(name, f"what leads to it has unlike shapes, {[list(g) for g in given]}")
        kind, layer = graph.nodes[name].kind, layers[name]
        rank = {"Affine": 1, "Linear": 1, "Conv1d": 2, "Conv2d": 3, "SumPool2d": 3, "AvgPool2d": 3}.get(kind)
        if rank is not None and len(given[0]) != rank:
            graph.refuse(name, f"expected an input of {rank} axes, got {list(given[0])}")
        try:
            if isinstance(layer, SpikingNeuron | Timed | Scale):
                held = layer.buffers() if isinstance(layer, Heterogeneous | Timed | Scale) else ()
                found[name] = tuple(np.broadcast_shapes(given[0], *(tuple(tensor.shape) for tensor in held)))
                if found[name] != given[0]:
                    raise ValueError(f"its values are for {list(found[name])}")
            else:
                with torch.device("meta"):
                    batch = torch.empty((1, *given[0]))
                    found[name] = (
                        tuple(layer.to("meta")(batch).shape[1:]) if not list(layer.parameters()) else _on_meta(layer, batch)
                    )
        except (RuntimeError, ValueError, IndexError) as error:
            graph.refuse(name, f"an input of {list(given[0])} does not fit it ({str(error).splitlines()[0]})")
        if not 0 < math.prod(found[name]) <= LARGEST:
            graph.refuse(name, f"it would give {list(found[name])} values for a sample and step")
    return found


def _on_meta(layer: nn.Module, batch: Tensor) -> tuple[int, ...]:
    weights = {name: tensor.to("meta") for name, tensor in layer.named_parameters()}
    return tuple(torch.func.functional_call(layer, weights, (batch,)).shape[1:])


def _sequence(order: list[str], sources: Mapping[str, list[str]], layers: Mapping[str, nn.Module]) -> nn.Sequential | None:
    """The layers as one sequence with branches, None where the graph is no such thing."""
    targets: dict[str, list[str]] = {name: [] for name in order}
    for name in order:
        for source in sources[name]:
            targets[source].append(name)
    names = dict(zip(order, _module_names(order), strict=True))
    after: dict[str, set[str]] = {}  # nodes that every way from here to the end passes
    for name in reversed(order):
        after[name] = {name} | (set.intersection(*(after[t] for t in targets[name])) if targets[name] else set())
    used: set[str] = set()

    def walk(name: str | None, stop: str | None) -> nn.Sequential:
        found = nn.Sequential()
        while name is not None and name != stop:
            if name in used:
                raise _NotSeriesParallel
            used.add(name)
            if not isinstance(layers[name], nn.Identity):
                found.add_module(names[name], layers[name])
            following = targets[name]
            if len(following) > 1:
                common = set.intersection(*(after[t] for t in following))
                join = min(common, key=order.index)
                branches = [walk(t, join) for t in following]
                found.add_module(f"{names[name]}-fork", Branches(*branches))
                name = join
            else:
                name = following[0] if following else None
                if name is not None and name != stop and len(sources[name]) > 1:
                    raise _NotSeriesParallel
        return found

    try:
        return walk(order[0], None)
    except _NotSeriesParallel:
        return None


class _NotSeriesParallel(Exception):
    pass
