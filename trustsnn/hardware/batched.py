"""Many chips of one kind on the same samples, side by side in one pass: each chip is a group of channels.

That pays where layers are small (docs/hardware.md has the figures). As many chips run together as keep the largest layer of a pass within
`PASS` bytes. Draws at each use are the same on every chip, and made once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.blocks import BLOCK, frozen, is_stochastic, predict
from trustsnn.encoders import Generator
from trustsnn.hardware.converters import Quantised
from trustsnn.kernels import backend
from trustsnn.models.branches import Branches
from trustsnn.models.gates import Drawn
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.mismatched import Mismatched
from trustsnn.neurons.synapses import Synapses
from trustsnn.rng import Draws

PASS = 64 << 20  # bytes

_ALIKE = (nn.AvgPool2d, nn.MaxPool2d, nn.Upsample, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
"""Layers that treat each channel for itself and have nothing that differs from chip to chip."""


def predict_chips(chips: Sequence[SpikingNetwork], x: Tensor, draws: Draws | None = None) -> Tensor:
    """Logits [chips, B, K] of chips of one kind, which `deploy` made of one network, for the same samples [B, ...]; the same bits as
    of one chip after the other. `draws` as for `trustsnn.blocks.predict`."""
    found = []
    size = _together(chips[0], x[:1]) if len(chips) > 1 and stacked(chips[:1]) is not None else 1
    for start in range(0, len(chips), size):
        some = chips[start : start + size]
        side_by_side = stacked(some) if len(some) > 1 else None
        for model in [side_by_side] if side_by_side is not None else some:
            with frozen(model):
                logits = predict(model, x, draws if is_stochastic(model) else None)
            found.append(logits.unflatten(1, (-1, model.spec.classes)).movedim(1, 0))
    return torch.cat(found)


def stacked(chips: Sequence[SpikingNetwork]) -> SpikingNetwork | None:
    """The chips as one network with the logits [B, chips * K], chip after chip. None where that would not be the same bits, or is not
    known to be: without the native kernels, for Winograd's convolutions, sensors, bit-serial networks, and layers of other kinds.
    """
    one = chips[0]
    native = backend() == "native" and all(parameter.device.type == "cpu" for parameter in one.parameters())
    if not native or one.spec.readout == "bits" or any(chip.sensor is not None for chip in chips):
        return None
    try:
        layers = _sequence([chip.layers for chip in chips])
    except _NotKnownError:
        return None
    found = SpikingNetwork(nn.Sequential(_Copies(len(chips)), *layers), one.spec, {"name": "chips", "of": one.architecture})
    names = ["copies", *(name for name, _ in layers.named_children())]
    found.layers._modules = dict(zip(names, found.layers.children(), strict=True))
    found.memory = one.memory
    return found.eval()


def _together(chip: SpikingNetwork, x: Tensor) -> int:
    """How many chips go through one pass."""
    draws = Draws(0, "size", ("0",)) if is_stochastic(chip) else None
    with frozen(chip), torch.no_grad():
        counts = chip.unroll(x, draws).spike_counts
    largest = max(count.numel() for count in counts.values())
    return max(1, PASS // (4 * largest * chip.spec.steps * BLOCK))


class _NotKnownError(Exception):
    """A layer that has no place beside that of another chip."""


def _sequence(sequences: Sequence[nn.Module]) -> nn.Sequential:
    found = nn.Sequential()
    for name, *parts in zip(
        *([name for name, _ in sequences[0].named_children()], *(s.children() for s in sequences)), strict=True
    ):
        for key, module in _stages(name, parts):
            found.add_module(key, module)
    return found


def _stages(name: str, parts: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """The layers that stand for one layer of all chips. Its name stays: draws are found by it."""
    one = parts[0]
    if isinstance(one, Branches):
        found = Branches(*([] for _ in one), merge=one.how, heads=one.heads * len(parts))
        for key, each in enumerate(zip(*(part.children() for part in parts), strict=True)):
            found._modules[str(key)] = _sequence(each)
        yield name, found
    elif isinstance(one, nn.Linear):
        yield f"{name}-pixels", _Pixels()
        yield name, _grouped(parts)
        yield f"{name}-flat", nn.Flatten()
    elif Synapses.can(one) and Synapses(one).forward_method(spikes=False) == "sum":  # type: ignore[arg-type]
        yield name, _grouped(parts)
    elif isinstance(one, Drawn):
        yield name, _ApartDrawn(parts)
    elif isinstance(one, Quantised):
        yield name, _Apart(parts)
    elif type(one) is Mismatched:
        yield name, _Neurons(parts)  # type: ignore[arg-type]
    elif (type(one) is SpikingNeuron and all(_alike(one, part) for part in parts)) or type(one) in _ALIKE:
        yield name, one
    else:
        raise _NotKnownError


def _alike(one: SpikingNeuron, other: Any) -> bool:
    return bool(one.dynamics == other.dynamics and one.leak == other.leak and one.threshold == other.threshold)


def _grouped(parts: Sequence[Any]) -> nn.Conv2d:
    """The convolutions of all chips as one with groups; linear layers are convolutions of 1x1 images."""
    one, flat = parts[0], isinstance(parts[0], nn.Linear)
    weight = torch.cat([part.weight.detach().reshape(*part.weight.shape, *[1, 1] * flat) for part in parts])
    settings = {} if flat else {"stride": one.stride, "padding": one.padding, "dilation": one.dilation}
    groups = len(parts) * (1 if flat else one.groups)
    inputs, kernel = weight.shape[1] * groups, tuple(weight.shape[2:])
    found = nn.Conv2d(inputs, len(weight), kernel, groups=groups, bias=one.bias is not None, device="meta", **settings)  # type: ignore[arg-type]
    found.weight = nn.Parameter(weight)
    if one.bias is not None:
        found.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))
    return found


class _Copies(nn.Identity):
    """The input of each chip, [N, count * C, ...]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([h] * self.count, 1)


class _Pixels(nn.Flatten):
    """Inputs of a linear layer as images of one pixel, [N, F, 1, 1]."""

    def forward(self, h: Tensor) -> Tensor:
        return h.flatten(1)[:, :, None, None]


class _Apart(nn.Module):
    """The layers of the chips, each on its own channels."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([part(own) for part, own in zip(self.parts, h.chunk(len(self.parts), 1), strict=True)], 1)


class _ApartDrawn(Drawn):
    """The same of layers that draw, all of them the same."""

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self.parts, self.spikes, self.held = nn.ModuleList(parts), parts[0].spikes, parts[0].held  # type: ignore[misc]

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        assert isinstance(generator, Draws)
        once = _Once(generator.seed, generator.task, generator.ids)
        return torch.cat([each(own, part, once) for each, own in zip(self.parts, h.chunk(len(self.parts), 1), strict=True)], 1)


@dataclass(frozen=True)
class _Once(Draws):
    """Draws that are made once, however often they are asked for."""

    made: dict[Any, Tensor] = field(default_factory=dict, compare=False)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return self._known("uniform", shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self._known("normal", shape)

    def _known(self, how: str, shape: tuple[int, ...]) -> Tensor:
        key = (how, self.task, shape)
        if key not in self.made:
            self.made[key] = getattr(Draws, how)(self, shape)
        return self.made[key]


class _Neurons(Mismatched):
    """Neurons that deviate, those of each chip in their own way."""

    def __init__(self, parts: Sequence[Mismatched]) -> None:
        super().__init__(parts[0], parts[0].factors)
        self.parts = parts

    def of_each(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """Leak and threshold [...neurons] of all chips."""
        pairs = [part.of_each(own) for part, own in zip(self.parts, current.chunk(len(self.parts), 2), strict=True)]
        leaks, thresholds = zip(*pairs, strict=True)
        return torch.cat(leaks), torch.cat(thresholds)
