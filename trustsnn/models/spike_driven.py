"""The spike-driven transformer, first version (Yao 2023, arXiv 2307.01694): attention of masks and sums alone, membrane
shortcuts."""

from __future__ import annotations

from torch import nn

from trustsnn.models.branches import Branches
from trustsnn.models.parts import Family, Layers, Parts, Shape, pooled
from trustsnn.models.tokens import Plan, membrane_mlp, patches, spiking_linear, token_channels

PLANS = {
    "sdt-2-256": Plan(2, 256),
    "sdt-2-512": Plan(2, 512),
    "sdt-8-384": Plan(8, 384),
    "sdt-8-512": Plan(8, 512),
    "sdt-8-768": Plan(8, 768),
    "sdt-small": Plan(1, 128),
}


def _layers(plan: Plan, parts: Parts, shape: Shape) -> tuple[Layers, int]:
    channels = token_channels(plan, parts)
    layers, pool, size = patches(parts, shape, channels)
    position = [parts.neuron(), *parts.convolution(channels, channels, residual=True)]
    layers += [*pool, Branches(position, [])]
    for _ in range(plan.blocks):
        project = parts.convolution(channels, channels, 1, residual=True)
        attention = [parts.neuron(), _attention(parts, channels, size), *project]
        layers += [Branches(attention, []), Branches(membrane_mlp(parts, channels), [])]
    head, features = pooled(channels, size)
    return [*layers, parts.neuron(), *head], features


def _attention(parts: Parts, channels: int, size: tuple[int, int]) -> Branches:
    """Q * LIF_{.5}(sum over tokens of K * V) of spikes Q, K, V: a mask of channels, the same for all tokens."""
    query, key, value = (spiking_linear(parts, channels) for _ in range(3))
    over_tokens = nn.AvgPool2d(size, divisor_override=1)  # the sum, in one order whatever the batch
    mask = [Branches(key, value, merge="and"), over_tokens, parts.attention_neuron(), nn.Upsample(size)]
    return Branches(query, mask, merge="and")


FAMILY = Family(PLANS, _layers)
