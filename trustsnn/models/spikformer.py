"""Spikformer (Zhou 2023, arXiv 2209.15425), whose residuals add spikes, and Spikingformer (Zhou 2023, arXiv 2304.11954), whose
residuals add currents. Both have spiking self-attention without softmax."""

from __future__ import annotations

import math

from trustsnn.errors import ConfigError
from trustsnn.models.branches import Branches
from trustsnn.models.parts import Family, Layers, Parts, Shape, pooled
from trustsnn.models.tokens import HEAD, Plan, membrane_mlp, patches, spiking_linear, token_channels

SPIKFORMERS = {
    "spikformer-4-256": Plan(4, 256),
    "spikformer-2-384": Plan(2, 384),
    "spikformer-4-384": Plan(4, 384),
    "spikformer-8-384": Plan(8, 384, 2 * HEAD),
    "spikformer-8-512": Plan(8, 512, 2 * HEAD),
    "spikformer-8-768": Plan(8, 768, 2 * HEAD),
    "spikformer-small": Plan(1, 128),
}
SPIKINGFORMERS = {
    "spikingformer-4-256": Plan(4, 256),
    "spikingformer-2-384": Plan(2, 384),
    "spikingformer-4-384": Plan(4, 384),
    "spikingformer-8-384": Plan(8, 384, 2 * HEAD),
    "spikingformer-8-512": Plan(8, 512, 2 * HEAD),
    "spikingformer-8-768": Plan(8, 768, 2 * HEAD),
    "spikingformer-small": Plan(1, 128),
}


def _spikformer(plan: Plan, parts: Parts, shape: Shape) -> tuple[Layers, int]:
    channels = token_channels(plan, parts)
    layers, pool, size = patches(parts, shape, channels)
    layers += [parts.neuron(), *pool]
    layers.append(Branches([*parts.convolution(channels, channels), parts.neuron()], []))  # position of the tokens
    for _ in range(plan.blocks):
        wide = [*parts.convolution(channels, 4 * channels, 1), parts.neuron()]
        mlp = [*wide, *parts.convolution(4 * channels, channels, 1), parts.neuron()]
        layers += [Branches([*_attention(plan, parts, channels), *spiking_linear(parts, channels)], []), Branches(mlp, [])]
    head, features = pooled(channels, size)
    return layers + head, features


def _spikingformer(plan: Plan, parts: Parts, shape: Shape) -> tuple[Layers, int]:
    channels = token_channels(plan, parts)
    layers, pool, size = patches(parts, shape, channels)
    layers += [parts.neuron(), *pool, *parts.convolution(channels, channels)]
    for _ in range(plan.blocks):
        attention = [parts.neuron(), *_attention(plan, parts, channels), *parts.convolution(channels, channels, 1, residual=True)]
        layers += [Branches(attention, []), Branches(membrane_mlp(parts, channels), [])]
    head, features = pooled(channels, size)
    return layers + head, features


def _attention(plan: Plan, parts: Parts, channels: int) -> Layers:
    """LIF_{.5}((Q K^T) V * .125) of spikes Q, K, V."""
    heads = channels // math.gcd(channels, plan.head) if parts.heads is None else parts.heads
    if type(heads) is not int or heads < 1 or channels % heads:
        raise ConfigError(f"Expected heads that divide the {channels} channels of a token, got {heads!r}.")
    qkv = [spiking_linear(parts, channels) for _ in range(3)]
    return [Branches(*qkv, merge="attention", heads=heads), parts.attention_neuron()]


FAMILIES = (Family(SPIKFORMERS, _spikformer, ("heads",)), Family(SPIKINGFORMERS, _spikingformer, ("heads",)))
