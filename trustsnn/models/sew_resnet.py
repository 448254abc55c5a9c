"""SEW-ResNet (Fang 2021, arXiv 2102.04159): residual blocks that end in neurons and merge spikes with spikes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.models.branches import Branches
from trustsnn.models.parts import LARGE, Family, Layers, Parts, Shape, halved, pooled

MERGES = ("add", "and", "iand")


class Plan(NamedTuple):
    """Blocks and channels of each stage; the first stage keeps the size and each further one halves it."""

    blocks: tuple[int, ...]
    channels: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = False


Block = Callable[[Parts, int, Sequence[tuple[int, int, int]], int], Layers]
"""The layers of a block from its input channels, its convolutions (output channels, size of the kernel, stride) and its stride."""

PLANS = {
    "sew-resnet18": Plan((2, 2, 2, 2)),
    "sew-resnet34": Plan((3, 4, 6, 3)),
    "sew-resnet50": Plan((3, 4, 6, 3), bottleneck=True),
    "sew-resnet101": Plan((3, 4, 23, 3), bottleneck=True),
    "sew-resnet152": Plan((3, 8, 36, 3), bottleneck=True),
    "sew-resnet-small": Plan((1, 1, 1), (32, 64, 128)),
}


def residual(plan: Plan, parts: Parts, shape: Shape, block: Block) -> tuple[Layers, int]:
    """The first convolution and its neurons, the blocks that `block` makes, the mean over all pixels; and the features left."""
    channels, size = parts.width(plan.channels[0]), (shape[1], shape[2])
    large = min(size) >= LARGE
    layers = [*parts.convolution(shape[0], channels, 7 if large else 3, 2 if large else 1), parts.neuron()]
    if large:
        layers.append(nn.MaxPool2d(3, 2, 1))
        size = halved(halved(size))
    for stage, (blocks, width) in enumerate(zip(plan.blocks, map(parts.width, plan.channels), strict=True)):
        for place in range(blocks):
            stride = 2 if stage and not place else 1
            convolutions = [(width, 3, stride), (width, 3, 1)]
            if plan.bottleneck:
                convolutions = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
            layers += block(parts, channels, convolutions, stride)
            channels = convolutions[-1][0]
            size = halved(size) if stride == 2 else size
    head, features = pooled(channels, size)
    return layers + head, features


def _layers(plan: Plan, parts: Parts, shape: Shape) -> tuple[Layers, int]:
    return residual(plan, parts, shape, _block)


def _block(parts: Parts, inputs: int, convolutions: Sequence[tuple[int, int, int]], stride: int) -> Layers:
    """Convolutions each with neurons behind it, and a shortcut that has them too where the shape changes."""
    branch: Layers = []
    channels = inputs
    for outputs, kernel, step in convolutions:
        branch += [*parts.convolution(channels, outputs, kernel, step), parts.neuron()]
        channels = outputs
    merge = parts.merge or MERGES[0]
    if merge not in MERGES:
        raise ConfigError(f"Expected a merge of {MERGES} for a SEW-ResNet, got {merge!r}.")
    _begin_as_identity(branch[-2], parts, merge)
    shortcut = [*parts.convolution(inputs, channels, 1, stride), parts.neuron()] if stride > 1 or inputs != channels else []
    return [Branches(branch, shortcut, merge=merge)]


def _begin_as_identity(norm: nn.Module, parts: Parts, merge: str) -> None:
    """The last normalisation gets weight 0 and a bias with which the neurons behind it always fire ("and") or never do, so that
    the block hands on its shortcut. For "and" the bias is the threshold, as in the authors' code. For the others theirs is 0, a
    threshold away from firing, where the derivative of a triangular surrogate is 0 and the branch would never learn: here the
    membrane comes up to half the threshold at the last step."""
    if isinstance(norm, nn.BatchNorm2d | nn.GroupNorm):
        d = parts.dynamics
        silent = d.threshold / 2 / sum(d.leak**t for t in range(parts.steps))
        nn.init.zeros_(norm.weight)
        nn.init.constant_(norm.bias, d.threshold if merge == "and" else silent)


FAMILY = Family(PLANS, _layers, ("merge",))
