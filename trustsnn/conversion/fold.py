"""The weights of a converted network: normalisation folded in, in units of what one spike of each layer stands for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.blocks import frozen
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.qcfs import QCFS
from trustsnn.neurons.relu import ReLU
from trustsnn.neurons.synapses import Synapses

_LINEAR = (nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)

Unit = Callable[[Any], float]  # of a QCFS or ReLU layer
Replacement = Callable[[Any], SpikingNeuron]


def rescaled_layers(
    ann: SpikingNetwork, unit: Unit, replacement: Replacement, *, shift: float = 0.0, exact: bool = False
) -> nn.Sequential:
    """The layers of `ann` with other neurons and with weights that keep every activation, in eval mode.

    A tensor of the new network times `unit` of the layer of neurons that it comes from, or goes to, is that of the old one. So a
    layer's weights are multiplied by the unit before it and divided by the one after it, a bias by the latter alone. All is
    computed in float64 and rounded once.

    Args:
        shift: added to each bias before neurons, in their unit.
        exact: round weights and biases to multiples of 2^-46 of the largest current, so that every sum over levels is exact in
            float64, in any order; its other 7 bits are for means over up to 64 pixels and half a level.

    Raises:
        ConfigError: a layer is not linear in the spikes (maximum pooling, a normalisation that does not follow weights, ...).
    """
    precise = copy.deepcopy(ann).double()
    originals = dict(ann.layers.named_children())
    with frozen(precise), torch.no_grad():
        stages = precise.stages()
    layers: list[nn.Module] = []
    here, most, weighted = 1.0, 1.0, False  # the unit, the largest value in it, whether weights came since the last neurons
    for place, (name, stage) in enumerate(stages):
        layer = originals[name]
        if isinstance(stage, Synapses):
            following = next((s for _, s in stages[place + 1 :] if isinstance(s, Synapses | SpikingNeuron)), None)
            there, offset = (unit(following), shift) if isinstance(following, QCFS | ReLU) else (1.0, 0.0)
            weight, bias = stage.weight.detach() * (here / there), stage.bias
            bias = weight.new_zeros(len(weight)) if bias is None else bias.detach() / there
            bias = bias + offset
            if exact:
                weight, bias = _on_grid(weight, bias, most)
            layers.append(_with_weights(layer, weight, bias))
            here, weighted = there, True
        elif isinstance(layer, QCFS | ReLU):
            if not weighted:
                raise ConfigError(f"The neurons layers.{name} follow no weights that could be brought to their scale.")
            layers.append(replacement(layer).to(layer.threshold))
            most, weighted = float(getattr(layer, "levels", 1)), False
        elif isinstance(layer, _LINEAR):
            layers.append(copy.deepcopy(layer))
        else:
            raise ConfigError(
                f"The layer layers.{name} ({type(layer).__name__}) cannot be converted: spikes pass weights, average pooling and "
                "batch normalisation right after weights. Train with average pooling instead of maximum pooling."
            )
    return nn.Sequential(*layers).eval()


def _on_grid(weight: Tensor, bias: Tensor, most: float) -> tuple[Tensor, Tensor]:
    largest = float(weight.abs().flatten(1).sum(1).max()) * most + float(bias.abs().max()) + 1
    grid = 2.0 ** (math.ceil(math.log2(largest)) - 46)
    return (weight / grid).round() * grid, (bias / grid).round() * grid


def _with_weights(layer: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    copied = copy.deepcopy(layer)
    old: Tensor = layer.weight  # type: ignore[assignment]
    copied.weight = nn.Parameter(weight.reshape(old.shape).to(old.dtype))
    copied.bias = nn.Parameter(bias.to(old.dtype))
    return copied
