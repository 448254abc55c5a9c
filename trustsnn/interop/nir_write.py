"""From a `SpikingNetwork` to a NIR graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.errors import ConfigError
from trustsnn.hardware.deploy import folded
from trustsnn.interop.nir_graph import Graph, Node
from trustsnn.interop.nir_read import Scale
from trustsnn.models import SpikingNetwork
from trustsnn.models.branches import Branches
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.heterogeneous import Heterogeneous

Shape = tuple[int, ...]


@dataclass
class Written:
    """A graph, and what plain NIR does not say of it: the nodes by what that is."""

    graph: Graph
    unsaid: dict[str, list[str]] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """A line for each thing that stands in the metadata alone."""
        return [f"{what}; that stands in the metadata alone (nodes {', '.join(nodes)})." for what, nodes in self.unsaid.items()]


def graph_from(model: SpikingNetwork, dt: float) -> Written:
    """The graph of a network with its normalisation folded in. Raises as `trustsnn.interop.nir.write` does."""
    if not (math.isfinite(dt) and dt > 0):
        raise ConfigError(f"Expected a time step dt above 0, in seconds, got {dt}.")
    if not isinstance(model, SpikingNetwork):
        raise ConfigError(
            f"Expected a network of trustsnn's layers, got {type(model).__name__}. Export others with their own framework."
        )
    if model.sensor is not None:
        raise ConfigError("The network has a sensor before its encoder, which NIR has no place for.")
    spec = model.spec
    if spec.readout == "bits":
        raise ConfigError("A bit-serial network has no place in NIR: its neurons wait for all time steps.")
    return _Writer(model, dt).written


class _Writer:
    def __init__(self, model: SpikingNetwork, dt: float) -> None:
        spec = model.spec
        self.dt = dt
        shape = spec.input_shape[1:] if spec.encoder == "frames" else spec.input_shape
        metadata: dict[str, Any] = {
            "dt": np.float64(dt),
            "time_steps": np.int64(spec.steps),
            "domain": spec.domain,
            "encoder": spec.encoder,
        }
        if spec.max_count is not None:
            metadata["max_count"] = np.int64(spec.max_count)
        self.written = Written(Graph(metadata=metadata))
        self.graph = self.written.graph
        with torch.no_grad():
            layers = folded(model.layers)
        self.graph.nodes["input"] = Node("Input", {"shape": _integers(*shape)})
        last, shape = self.sequence(layers, "", ["input"], shape)
        self.graph.nodes["output"] = Node("Output", {"shape": _integers(*shape)})
        self.join(last, "output")
        if spec.encoder not in ("direct", "frames"):
            self.warn("input", f"the graph is to be fed with what the encoder {spec.encoder!r} gives")

    def warn(self, name: str, text: str) -> None:
        self.written.unsaid.setdefault(text, []).append(name)

    def refuse(self, name: str, text: str) -> NoReturn:
        raise ConfigError(f"Layer {name!r} has no place in NIR: {text}.")

    def join(self, sources: list[str], target: str) -> None:
        self.graph.edges += [(source, target) for source in sources]

    def sequence(self, layers: nn.Sequential, prefix: str, sources: list[str], shape: Shape) -> tuple[list[str], Shape]:
        """Add layers one after the other; the nodes whose sum they give, and its shape."""
        for key, layer in layers.named_children():
            name = prefix + key
            if isinstance(layer, Branches):
                sources, shape = self.branches(layer, name, sources, shape)
            elif isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout2d):
                continue
            else:
                self.graph.nodes[name] = self.node(layer, name, shape)
                self.join(sources, name)
                sources, shape = [name], _out(layer, shape)
        return sources, shape

    def branches(self, layer: Branches, name: str, sources: list[str], shape: Shape) -> tuple[list[str], Shape]:
        """A nested graph whose output is the sum of its branches."""
        if layer.how != "add":
            self.refuse(name, f"branches that merge by {layer.how!r}; edges of a graph add up")
        entry, end = f"{name}.input", f"{name}.output"
        self.graph.nodes[entry] = Node("Input", {"shape": _integers(*shape)})
        self.join(sources, entry)
        found = [self.sequence(branch, f"{name}.{key}-", [entry], shape) for key, branch in layer.named_children()]  # type: ignore[arg-type]
        if sum(last == [entry] for last, _ in found) > 1:
            self.refuse(name, "two empty branches")
        shape = found[0][1]
        self.graph.nodes[end] = Node("Output", {"shape": _integers(*shape)})
        for last, _ in found:
            self.join(last, end)
        return [end], shape

    def node(self, layer: nn.Module, name: str, shape: Shape) -> Node:
        if isinstance(layer, SpikingNeuron):
            return self.neuron(layer, name, shape)
        if isinstance(layer, nn.Linear):
            weight = {"weight": _array(layer.weight)}
            return (
                Node("Affine", {**weight, "bias": _array(layer.bias)}) if layer.bias is not None else Node("Linear", {**weight})
            )
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(len(layer.weight))
            sizes = {key: _integers(*getattr(layer, key)) for key in ("stride", "padding", "dilation")}
            values = {"weight": _array(layer.weight), "bias": _array(bias), **sizes, "groups": np.asarray(layer.groups, np.int64)}
            return Node("Conv2d", {**values, "input_shape": _integers(*shape[1:])})
        if (
            isinstance(layer, nn.AvgPool2d)
            and not layer.ceil_mode
            and layer.count_include_pad
            and layer.divisor_override in (None, 1)
        ):
            sizes = {key: _pair(getattr(layer, key)) for key in ("kernel_size", "stride", "padding")}
            return Node("SumPool2d" if layer.divisor_override else "AvgPool2d", {**sizes})
        if isinstance(layer, nn.Flatten) and layer.start_dim >= 1:
            end = layer.end_dim - 1 if layer.end_dim > 0 else layer.end_dim
            axes = {"start_dim": np.asarray(layer.start_dim - 1, np.int64), "end_dim": np.asarray(end, np.int64)}
            return Node("Flatten", {**axes, "input_type": _integers(*shape)})
        if isinstance(layer, Scale):
            return Node("Scale", {"scale": _array(layer.scale)})
        return self.refuse(name, f"{layer} ({type(layer).__name__})")

    def neuron(self, neuron: SpikingNeuron, name: str, shape: Shape) -> Node:
        """LIF with tau = dt / (1 - leak), or IF for leak = 1; forward Euler with dt gives leak and gain back to the bit."""
        plain = type(neuron) is SpikingNeuron or (isinstance(neuron, Calibrated) and neuron.potential is None)
        if not plain:
            what = "neurons with initial potentials" if isinstance(neuron, Calibrated) else f"{type(neuron).__name__} neurons"
            self.refuse(name, what if not isinstance(neuron, Heterogeneous) else "neurons of an imported graph: keep its file")
        dynamics = neuron.dynamics
        leak, threshold = (float(each.detach()) for each in neuron.parameters_in_bounds())
        metadata: dict[str, Any] = {"dt": np.float64(self.dt), "reset": dynamics.reset, "comparator": dynamics.comparator}
        if dynamics.reset == "soft":
            self.warn(name, "plain NIR resets to v_reset, this network by subtraction (soft)")
        if dynamics.comparator == ">=":
            self.warn(name, "plain NIR spikes where v > V, this network where v >= V")
        if dynamics.initial:
            metadata["initial"] = np.float64(dynamics.initial)
            self.warn(name, f"plain NIR starts at v = 0, this network at {dynamics.initial:g} V")
        leaky = dynamics.gain == "leaky"
        full = {"v_threshold": threshold, "v_reset": 0.0}
        if leak == 1:
            full["r"] = (0.0 if leaky else 1.0) / self.dt
        else:
            full |= {"tau": self.dt / (1 - leak), "r": 1.0 if leaky else 1 / (1 - leak), "v_leak": 0.0}
        return Node("IF" if leak == 1 else "LIF", {key: np.full(shape, value) for key, value in full.items()}, metadata)


def _out(layer: nn.Module, shape: Shape) -> Shape:
    if isinstance(layer, SpikingNeuron):
        return shape
    with torch.no_grad():
        return tuple(layer.to("meta")(torch.empty((1, *shape), device="meta")).shape[1:])


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def _integers(*values: int) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)


def _pair(value: int | tuple[int, int]) -> NDArray[np.int64]:
    return _integers(*(value if isinstance(value, tuple) else (value, value)))
