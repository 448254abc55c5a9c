"""Networks that are one sequence of layers: mlp, conv, vgg9, vgg11, vgg16."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn

from trustsnn.models.parts import Family, Layers, Parts, Shape


class Plan(NamedTuple):
    """Convolutions (a number is that many channels, "P" average pooling by 2) and hidden layers."""

    convolutions: tuple[int | str, ...]
    hidden: tuple[int, ...]


PLANS = {
    "mlp": Plan((), (256, 256)),
    "conv": Plan((32, "P", 64, "P"), (128,)),
    "vgg9": Plan((64, 64, "P", 128, 128, "P", 256, 256, 256, "P"), (1024,)),
    "vgg11": Plan((64, "P", 128, "P", 256, 256, "P", 512, 512, "P", 512, 512, "P"), (512, 512)),
    "vgg16": Plan((64, 64, "P", 128, 128, "P", *(256,) * 3, "P", *(512,) * 3, "P", *(512,) * 3, "P"), (4096, 4096)),
}


def _layers(plan: Plan, parts: Parts, shape: Shape) -> tuple[Layers, int]:
    channels, height, breadth = shape
    layers: Layers = []
    for entry in plan.convolutions:
        if isinstance(entry, str):
            if min(height, breadth) >= 2:
                layers.append(nn.AvgPool2d(2))
                height, breadth = height // 2, breadth // 2
            continue
        layers += [*parts.convolution(channels, parts.width(entry)), parts.neuron()]
        channels = parts.width(entry)
    layers.append(nn.Flatten())
    features = math.prod((channels, height, breadth))
    for size in plan.hidden:
        layers += [*parts.dense(features, parts.width(size)), parts.neuron()]
        features = parts.width(size)
    return layers, features


FAMILY = Family(PLANS, _layers, ("neuron",))
