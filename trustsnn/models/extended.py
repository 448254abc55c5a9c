"""A bundled network with more in it than its architecture says: gates behind its neurons, a leak for each time step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.models.gates import Gate
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import rebuild
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.evolving import EvolvingLeak

NAME = "extended"


def build_extended(
    base: dict[str, Any],
    gates: Mapping[str, Sequence[int]] | None = None,
    leaks: bool = False,
    seed: int | None = None,
    learn: bool | None = None,
) -> SpikingNetwork:
    """The network of the architecture `base` with fresh weights, and:

    Args:
        gates: behind each layer of neurons of that name a `Gate` for its neurons of that shape, which lets everything pass at first.
        leaks: `EvolvingLeak` in place of each layer of neurons, but of those with a leaky gain.
        seed, learn: in place of those of `base`, where they are given.
    """
    arguments = {**base["arguments"], **({} if seed is None else {"seed": seed}), **({} if learn is None else {"learn": learn})}
    base = {**base, "arguments": arguments}
    network: Any = rebuild(base)
    if type(network) is not SpikingNetwork:
        raise ConfigError(f"Expected an architecture of layers over time steps, got {base['name']!r}.")
    if leaks:
        _evolve(network.layers, network.spec.steps)
    if gates:
        _insert(network.layers, gates)
    made = {"base": base, "gates": {name: list(shape) for name, shape in gates.items()} if gates else None, "leaks": leaks}
    spec = replace(network.spec, stochastic=network.spec.stochastic or bool(gates))
    return SpikingNetwork(network.layers, spec, {"name": NAME, "arguments": made})


def extended(network: SpikingNetwork, *, gates: bool = False, leaks: bool = False, encoder: str | None = None) -> SpikingNetwork:
    """A copy of a bundled network with its weights, and gates behind all neurons but the last ones of a spiking readout, a leak for
    each time step, or another encoder. See `build_extended`.

    Raises:
        ConfigError: the network is not a bundled one of layers over time steps, has other neurons than LIF, or takes no encoder.
    """
    architecture = network.architecture
    kinds = {type(module) for module in network.modules() if isinstance(module, SpikingNeuron)}
    if type(network) is not SpikingNetwork or not kinds <= {SpikingNeuron, EvolvingLeak}:
        raise ConfigError("Expected a bundled network of LIF neurons over time steps: no other can be given gates or leaks.")
    again = architecture["name"] == NAME
    own: dict[str, Any] = architecture["arguments"] if again else {"base": architecture, "gates": None, "leaks": False}
    base = own["base"]
    if encoder is not None:
        if "encoder" not in base["arguments"]:
            raise ConfigError(f"The model {base['name']!r} takes no encoder: it gets images as they are.")
        base = {**base, "arguments": {**base["arguments"], "encoder": encoder}}
    made = build_extended(base, _shapes(network) if gates else own["gates"], leaks or own["leaks"])
    before = network.state_dict()
    made.load_state_dict({name: before[name].expand(t.shape) if name in before else t for name, t in made.state_dict().items()})
    weight = next(network.parameters())
    return made.to(weight.device, weight.dtype).train(network.training)


def _shapes(network: SpikingNetwork) -> dict[str, list[int]]:
    """The neurons of each layer of one sample, but of a spiking readout."""
    weight = next(network.parameters())
    training = network.training
    with torch.no_grad():
        zeros, draws = weight.new_zeros((1, *network.spec.input_shape)), torch.Generator(weight.device).manual_seed(0)
        counts = network.eval().unroll(zeros, draws).spike_counts
    network.train(training)
    last = network.layers[-1]
    return {name: list(count.shape[1:]) for name, count in counts.items() if network.get_submodule(name) is not last}


def _evolve(layers: nn.Module, steps: int) -> None:
    changed = 0
    for module in layers.modules():
        for name, child in list(module.named_children()):
            if type(child) is SpikingNeuron and child.dynamics.gain == "unit":
                learn = isinstance(child.threshold, nn.Parameter)
                changed += 1
                setattr(module, name, EvolvingLeak(steps, child.dynamics, child.estimator.surrogate, learn=learn))  # type: ignore[attr-defined]
    if not changed:
        raise ConfigError("Expected neurons of gain 'unit', whose leaks are to differ by step, got none.")


def _insert(layers: nn.Sequential, gates: Mapping[str, Sequence[int]]) -> None:
    sequences = {f"layers.{path}.".replace("..", "."): m for path, m in layers.named_modules() if isinstance(m, nn.Sequential)}
    for path, sequence in sequences.items():
        children = list(sequence.named_children())
        for name, _ in children:
            delattr(sequence, name)
        for name, child in children:
            sequence.add_module(name, child)
            if path + name in gates:
                sequence.add_module(f"{name}-gate", Gate(gates[path + name]))
