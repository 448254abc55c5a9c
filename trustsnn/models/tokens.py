"""What spiking transformers share: patch splitting by convolutions, and the query, key and value of an attention."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from trustsnn.models.parts import LARGE, Layers, Parts, Shape, halved

HEAD = 32  # channels of a head, as the published networks for CIFAR-10 have


class Plan(NamedTuple):
    """Encoder blocks, channels of a token, and channels of a head; twice `HEAD` in the published networks for ImageNet."""

    blocks: int
    channels: int
    head: int = HEAD


def token_channels(plan: Plan, parts: Parts) -> int:
    """Channels of a token: a multiple of the channels of a head."""
    return parts.width(plan.channels, HEAD)


def patches(parts: Parts, shape: Shape, channels: int) -> tuple[Layers, Layers, tuple[int, int]]:
    """Four convolutions up to the normalisation of the last one, its pooling, and the map of tokens.

    Height and width are halved behind each convolution for inputs of 64 and more pixels, else behind the last two.
    """
    size, inputs = (shape[1], shape[2]), shape[0]
    large = min(size) >= LARGE
    layers: Layers = []
    pool: Layers = []
    for place, share in enumerate((8, 4, 2, 1)):
        if place:
            layers += [parts.neuron(), *pool]
        layers += parts.convolution(inputs, channels // share)
        inputs = channels // share
        pool = [nn.MaxPool2d(3, 2, 1)] if large or place >= 2 else []
        size = halved(size) if pool else size
    return layers, pool, size


def spiking_linear(parts: Parts, channels: int) -> Layers:
    """A linear map of each token's channels, its normalisation and neurons: a query, key or value."""
    return [*parts.convolution(channels, channels, 1), parts.neuron()]


def membrane_mlp(parts: Parts, channels: int) -> Layers:
    """Two linear maps, neurons before each, with four times the channels in between: the sum goes to a current."""
    first = [parts.neuron(), *parts.convolution(channels, 4 * channels, 1)]
    return [*first, parts.neuron(), *parts.convolution(4 * channels, channels, 1, residual=True)]
