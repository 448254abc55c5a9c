"""Spiking ResNet: the residual blocks of He 2016 (arXiv 1512.03385) with neurons in place of ReLU, so that the currents of branch and
shortcut are added before they fire (Hu 2018, arXiv 1805.01352; Zheng 2021, arXiv 2011.05280)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from trustsnn.errors import ConfigError
from trustsnn.models.branches import Branches
from trustsnn.models.parts import Family, Layers, Parts, Shape
from trustsnn.models.sew_resnet import Plan, residual

PLANS = {
    "resnet18": Plan((2, 2, 2, 2)),
    "resnet20": Plan((3, 3, 3), (16, 32, 64)),
    "resnet34": Plan((3, 4, 6, 3)),
    "resnet50": Plan((3, 4, 6, 3), bottleneck=True),
    "resnet-small": Plan((1, 1, 1), (32, 64, 128)),
}


def _layers(plan: Plan, parts: Parts, shape: Shape) -> tuple[Layers, int]:
    return residual(plan, parts, shape, _block)


def _block(parts: Parts, inputs: int, convolutions: Sequence[tuple[int, int, int]], stride: int) -> Layers:
    """Convolutions with neurons between them, a shortcut with a convolution where the shape changes, and neurons for the sum. A
    shortcut of `scaled` spikes has a weight for each channel where the shape stays."""
    branch: Layers = []
    channels = inputs
    for place, (outputs, kernel, step) in enumerate(convolutions, 1):
        branch += parts.convolution(channels, outputs, kernel, step, residual=place == len(convolutions))
        branch += [parts.neuron()] if place < len(convolutions) else []
        channels = outputs
    if parts.shortcut not in (None, "scaled"):
        raise ConfigError(f"Expected the shortcut 'scaled' of a ResNet, or none, got {parts.shortcut!r}.")
    shortcut: Layers = [nn.Conv2d(channels, channels, 1, groups=channels)] if parts.shortcut else []
    if stride > 1 or inputs != channels:
        shortcut = parts.convolution(inputs, channels, 1, stride, residual=True)
    return [Branches(branch, shortcut, merge="add"), parts.neuron()]


FAMILY = Family(PLANS, _layers, ("neuron", "shortcut"))
