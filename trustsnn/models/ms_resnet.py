"""MS-ResNet (Hu 2021, arXiv 2112.08954): neurons before each convolution, and a shortcut from current to current."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from trustsnn.models.branches import Branches
from trustsnn.models.parts import LARGE, Family, Layers, Parts, Shape, halved, pooled


class Plan(NamedTuple):
    """Blocks and channels of each stage; each halves the size, but for small inputs the first.

    deep: the authors' form for 104 layers: three convolutions of 3x3 in place of one before the first block, and a shortcut that
        halves the size by average pooling.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...] = (64, 128, 256, 512)
    deep: bool = False


PLANS = {
    "ms-resnet18": Plan((2, 2, 2, 2)),
    "ms-resnet34": Plan((3, 4, 6, 3)),
    "ms-resnet104": Plan((3, 8, 32, 8), deep=True),
    "ms-resnet-small": Plan((1, 1, 1), (32, 64, 128)),
}


def _layers(plan: Plan, parts: Parts, shape: Shape) -> tuple[Layers, int]:
    channels, size = parts.width(plan.channels[0]), (shape[1], shape[2])
    large = min(size) >= LARGE
    stride = 2 if large else 1
    if plan.deep:
        layers: Layers = [nn.Conv2d(shape[0], channels, 3, stride, padding=1), nn.Conv2d(channels, channels, 3, padding=1)]
        layers += parts.convolution(channels, channels)
    else:
        layers = parts.convolution(shape[0], channels, 7 if large else 3, stride)
    size = halved(size) if large else size
    for stage, (blocks, width) in enumerate(zip(plan.blocks, map(parts.width, plan.channels), strict=True)):
        for block in range(blocks):
            stride = 2 if (stage or large) and not block else 1
            pool = _pool(size) if plan.deep and stride == 2 else []
            layers.append(_block(parts, channels, width, stride, pool))
            channels, size = width, halved(size) if stride == 2 else size
    head, features = pooled(channels, size)
    return [*layers, parts.neuron(), *head], features


def _pool(size: tuple[int, int]) -> Layers:
    """What halves height and width, rounded up: a pixel without a partner stays as it is."""
    return [nn.AvgPool2d(2, ceil_mode=any(side % 2 for side in size))]


def _block(parts: Parts, inputs: int, outputs: int, stride: int, pool: Layers) -> Branches:
    """(LIF, convolution, normalisation) twice. The last weight starts at 0, as in the authors' code; with tdBN at what Zheng 2021
    has for residual branches. `pool`, if any, halves the shortcut in place of its stride."""
    branch = [parts.neuron(), *parts.convolution(inputs, outputs, 3, stride)]
    branch += [parts.neuron(), *parts.convolution(outputs, outputs, residual=True)]
    if parts.norm in ("batch", "group"):
        nn.init.zeros_(branch[-1].weight)  # type: ignore[arg-type]
    plain = stride == 1 and inputs == outputs
    shortcut = [] if plain else [*pool, *parts.convolution(inputs, outputs, 1, 1 if pool else stride, residual=True)]
    return Branches(branch, shortcut, merge="add")


FAMILY = Family(PLANS, _layers)
