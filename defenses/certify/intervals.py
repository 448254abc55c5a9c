"""S-IBP: intervals through affine maps and LIF neurons over time (Liang et al., NeurIPS 2022, arXiv 2205.01625)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from trustsnn.defenses.certify.layers import UNIT, Block, Layers, Lif

Spike = Callable[[Lif, Tensor], Tensor]  # a membrane as spikes, 0 or 1


class Interval(NamedTuple):
    """Values in [low, high], [T, B, ...] or with one step for all, and by how much of that rounding moves them at most."""

    low: Tensor
    high: Tensor
    error: Tensor


class Seen(NamedTuple):
    """Of a layer of neurons, [T, B, ...]: the membrane before the spike with the rounding of its own step, and the spikes."""

    membrane: Interval
    low: Tensor
    high: Tensor


def currents(block: Block, h: Interval, *, rounded: bool = True) -> Interval:
    """What the maps of a block make of `h`.

    `rounded`: the result holds for a forward pass in float32. A sum of n products in any order, or of n terms by fused multiply-adds, is off
    by at most about n UNIT (|W| |h| + |b|) (Higham 2002, section 3.1); 8 more are for the rounding of inputs and of the bias.
    """
    steps = len(h.low)
    low, high, error = (each.flatten(0, 1) for each in h)
    for each in block.maps:
        centre, radius = (low + high) / 2, (high - low) / 2
        if rounded and each.terms:
            part = (each.terms + 8) * UNIT
            error = each.spread(error + part * (centre.abs() + radius)) + part * each.bias.abs()
        elif rounded:
            error = each.spread(error)
        centre, radius = each.apply(centre), each.spread(radius)
        low, high = centre - radius, centre + radius
    if not rounded:
        error = torch.zeros_like(low)
    return Interval(*(each.unflatten(0, (steps, -1)) for each in (low, high, error)))


def heaviside(lif: Lif, membrane: Tensor) -> Tensor:
    """The spikes of a membrane, without gradient."""
    return lif.fires(membrane).to(membrane.dtype)


def fired(
    lif: Lif,
    x: Interval,
    steps: int,
    *,
    spike: Spike = heaviside,
    rounded: bool = True,
    tighten: Callable[..., Interval] | None = None,
) -> Seen:
    """Membranes and spikes of a layer for currents `x`.

    The membrane after the reset, where the interval of u has both u < V and u >= V:
        hard  [min(low, 0), V]                      either u below V or 0
        soft  [min(low, 0), max(V, high - V)]       either u below V or u - V
    `tighten(t, u, seen)` may replace the interval of the membrane [B, ...] of step t, `seen` being those of the steps before.
    """
    leak, threshold, gain = lif.leak, lif.threshold, lif.gain
    after = (lif.start.expand_as(x.low[0]), lif.start.expand_as(x.low[0]))
    seen: list[Interval] = []
    spikes: list[tuple[Tensor, Tensor]] = []
    for t in range(steps):
        current = Interval(*(each[t if len(each) > 1 else 0] for each in x))
        error = current.error
        if rounded:
            largest = leak * torch.maximum(after[0].abs(), after[1].abs())
            error = gain * error + 4 * UNIT * (largest + gain * torch.maximum(current.low.abs(), current.high.abs()))
        u = Interval(leak * after[0] + gain * current.low - error, leak * after[1] + gain * current.high + error, error)
        if tighten is not None:
            u = tighten(t, u, seen)
        seen.append(u)
        low, high = spike(lif, u.low), spike(lif, u.high)
        spikes.append((low, high))
        silent, unsure = 1 - high, high - low
        left_low = silent * u.low + unsure * u.low.clamp_max(0)
        if lif.hard:
            left_high = silent * u.high + unsure * threshold
        else:
            left_low = left_low + low * (u.low - threshold)
            left_high = silent * u.high + unsure * torch.maximum(threshold, u.high - threshold) + low * (u.high - threshold)
        after = (left_low, left_high)
    membrane = Interval(*(torch.stack(each) for each in zip(*seen, strict=True)))
    return Seen(membrane, *(torch.stack(each) for each in zip(*spikes, strict=True)))


def ball(x: Tensor, eps: float) -> Interval:
    """The points of [0, 1] within `eps` of a batch `x` [B, ...] in L-inf, and those that rounding to float32 makes of them: [1, B, ...]."""
    reach = eps + 2 * UNIT if eps else 0.0
    return Interval((x - reach).clamp(0, 1)[None], (x + reach).clamp(0, 1)[None], torch.zeros_like(x)[None])


def propagate(layers: Layers, h: Interval, *, spike: Spike = heaviside, rounded: bool = True) -> tuple[list[Seen], Interval]:
    """Every layer of neurons, and what the last block gives at each step [T, B, K], for inputs `h` [1, B, ...]."""
    seen: list[Seen] = []
    for block in layers.blocks:
        x = currents(block, h, rounded=rounded)
        if block.lif is None:
            return seen, x
        seen.append(fired(block.lif, x, layers.steps, spike=spike, rounded=rounded))
        h = Interval(seen[-1].low, seen[-1].high, torch.zeros_like(seen[-1].low))
    raise AssertionError("a network ends with its readout")
