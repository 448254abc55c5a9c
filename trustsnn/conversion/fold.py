"""The weights of a converted network: normalisation folded in, in units of what one spike of each layer stands for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.blocks import frozen
from trustsnn.errors import ConfigError
from trustsnn.models.branches import Branches
from trustsnn.models.network import Fork, SpikingNetwork, Stage
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
    layer's weights are multiplied by the unit before it and divided by the one after it, a bias by the latter alone. A shortcut
    without weights gets one for each channel, the ratio of the two. All is computed in float64 and rounded once.

    Args:
        shift: added to each bias before neurons, in their unit; to one of those whose currents add up.
        exact: round weights and biases to multiples of 2^-46 of the largest current, so that every sum over levels is exact in
            float64, in any order; its other 7 bits are for means over up to 64 pixels and half a level.

    Raises:
        ConfigError: a layer is not linear in the spikes (maximum pooling, a normalisation that does not follow weights, ...), or
            branches are no sum of currents that neurons follow.
    """
    precise = copy.deepcopy(ann).double()
    with frozen(precise), torch.no_grad():
        stages = precise.stages()
    rescale = _Rescale(dict(ann.layers.named_modules()), unit, replacement, shift, exact)
    row = rescale.row(stages, _Place(1.0, 1.0, 1.0, 0.0))
    rescale.finish(row.ends)
    return nn.Sequential(*row.layers).eval()


def scaled_shortcuts(ann: SpikingNetwork) -> dict[str, str]:
    """The argument of `trustsnn.models.build` that differs from the ANN's where shortcuts get weights."""
    empty = any(len(branch) == 0 for module in ann.layers.modules() if isinstance(module, Branches) for branch in module)  # type: ignore[arg-type]
    return {"shortcut": "scaled"} if empty else {}


class _Place(NamedTuple):
    """Where a row of layers is: the unit before it, the largest value in that; the unit and the shift of the current that it ends in."""

    before: float
    most: float
    after: float
    shift: float


class _End(NamedTuple):
    """Weights and bias of a layer in float64 that are still to be rounded, and the largest value before it."""

    layer: nn.Module
    weight: Tensor
    bias: Tensor
    most: float


class _Row(NamedTuple):
    """A row of new layers, and those of them whose currents it ends in."""

    layers: list[nn.Module]
    ends: list[_End]


@dataclass
class _Rescale:
    originals: dict[str, nn.Module]
    unit: Unit
    replacement: Replacement
    shift: float
    exact: bool

    def row(self, stages: list[Stage], place: _Place) -> _Row:
        """The new layers of a row of stages."""
        layers: list[nn.Module] = []
        ends: list[_End] = []
        here, most, _, _ = place
        for index, (name, stage) in enumerate(stages):
            layer = self.originals[name]
            if isinstance(stage, Synapses | Fork):
                self.finish(ends)
                following = next((s for _, s in stages[index + 1 :] if isinstance(s, Synapses | Fork | SpikingNeuron)), None)
                there, shift = (place.after, place.shift) if following is None else (1.0, 0.0)
                if isinstance(following, QCFS | ReLU):
                    there, shift = self.unit(following), self.shift
                inner = _Place(here, most, there, shift)
                found = self._merged(name, stage, inner) if isinstance(stage, Fork) else self._weighted(layer, stage, inner)
                layers, ends, here = layers + found.layers, found.ends, there
            elif isinstance(layer, QCFS | ReLU):
                if not ends:
                    raise ConfigError(f"The neurons layers.{name} follow no weights that could be brought to their scale.")
                self.finish(ends)
                layers.append(self.replacement(layer).to(layer.threshold))
                most, ends = float(getattr(layer, "levels", 1)), []
            elif isinstance(layer, _LINEAR):
                layers.append(copy.deepcopy(layer))
            else:
                raise ConfigError(
                    f"The layer layers.{name} ({type(layer).__name__}) cannot be converted: spikes pass weights, average pooling and "
                    "batch normalisation right after weights. Train with average pooling instead of maximum pooling."
                )
        return _Row(layers, ends)

    def _weighted(self, layer: nn.Module, synapses: Synapses, place: _Place) -> _Row:
        weight, bias = synapses.weight.detach() * (place.before / place.after), synapses.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach() / place.after
        copied = copy.deepcopy(layer)
        return _Row([copied], [_End(copied, weight, bias + place.shift, place.most)])

    def _merged(self, name: str, fork: Fork, place: _Place) -> _Row:
        """Currents of branches that add up."""
        rows: list[_Row] = []
        for stages in fork.branches:
            inner = place if not rows else place._replace(shift=0.0)
            rows.append(self.row(stages, inner) if stages else _Row([], []))
        like = next((row.ends[-1] for row in rows if row.ends), None)
        if fork.merge.how != "add" or like is None or any(row.layers and not row.ends for row in rows):
            raise ConfigError(
                f"The branches layers.{name} cannot be converted: currents of branches add up before neurons, as in a ResNet, got the merge "
                f"{fork.merge.how!r}{' of spikes' if fork.merge.how == 'add' else ''}."
            )
        rows = [row if row.layers else self._scaled(like, place) for row in rows]
        merged = Branches(*(row.layers for row in rows), merge="add")
        return _Row([merged], [end for row in rows for end in row.ends])

    def _scaled(self, like: _End, place: _Place) -> _Row:
        """A shortcut with a weight for each channel."""
        channels = len(like.weight)
        layer = nn.Conv2d(channels, channels, 1, groups=channels).to(next(like.layer.parameters()))
        weight = torch.full_like(layer.weight, place.before / place.after, dtype=torch.float64).detach()
        return _Row([layer], [_End(layer, weight, weight.new_zeros(channels), place.most)])

    def finish(self, ends: list[_End]) -> None:
        """Round weights and biases of layers whose currents add up."""
        grid = 0.0
        if self.exact and ends:
            largest = 1.0 + sum(float(e.weight.abs().flatten(1).sum(1).max()) * e.most + float(e.bias.abs().max()) for e in ends)
            grid = 2.0 ** (math.ceil(math.log2(largest)) - 46)
        for layer, *tensors, _ in ends:
            weight, bias = ((each / grid).round() * grid if grid else each for each in tensors)
            old: Tensor = layer.weight  # type: ignore[assignment]
            layer.weight = nn.Parameter(weight.reshape(old.shape).to(old.dtype))
            layer.bias = nn.Parameter(bias.to(old.dtype))
