"""S-CROWN: linear bounds backward through affine maps and LIF neurons over time (Liang et al., NeurIPS 2022; Zhang et al. 2018 for CROWN).

What a layer passes on at a step are its spike s and the membrane v after the reset, and both are functions of the membrane u before the spike
alone. A backward pass meets them with coefficients, a s + b v. So each neuron and step is one function of one variable with one jump,

    u < V:  b u            u >= V:  a  (hard reset)   or   a + b (u - V)  (soft reset)

whose lower bound on [low, high] is a line of its convex envelope: of the envelope's edges the one above the middle of the interval, which is
the line of the largest area. This bounds s and v together, where the paper bounds each of them. Upper bounds are lower bounds of the negative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trustsnn.defenses.certify.intervals import Interval, Seen, currents, fired
from trustsnn.defenses.certify.layers import Layers, Lif

_ELEMENTS = 1 << 23  # of a layer's coefficients that are in memory together: 64 MiB
_THIN = 1e-6  # of the threshold: an interval below that has no slopes, which would be steeper than 1e6


def line(lif: Lif, a: Tensor, b: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset [S, ...] of a line in u below a s + b v for each u in [low, high] [...], a and b being [S, ...]."""
    v = lif.threshold
    rise = torch.zeros_like(high) if lif.hard else high - v
    left, right = b * low, a + b * rise
    jump = torch.minimum(a, b * v)  # the lower of the two sides at V
    below, above = v - low, high - v
    width = high - low
    chord = left + (right - left) * below / width
    first, second = (jump - left) / below, (right - jump) / above
    early = below >= above  # the middle is left of V
    slope = torch.where(jump >= chord, (right - left) / width, torch.where(early, first, second))
    offset = torch.where((jump < chord) & ~early, jump - slope * v, left - slope * low)
    thin = width < _THIN * v
    slope, offset = torch.where(thin, 0.0, slope), torch.where(thin, torch.minimum(torch.minimum(left, right), jump), offset)
    silent, firing = ~lif.fires(high), lif.fires(low)
    slope = torch.where(silent, b, torch.where(firing, 0.0 if lif.hard else b, slope))
    return slope, torch.where(silent, 0.0, torch.where(firing, a if lif.hard else a - b * v, offset))


def through_neurons(lif: Lif, a: Tensor, direct: Tensor | None, membrane: Interval) -> tuple[Tensor, Tensor]:
    """From coefficients `a` [S, T, ...] on the spikes of a layer, and `direct` on its membranes u: coefficients on its currents, and the
    constant [S] that makes the result a lower bound. Steps whose membrane is not in `membrane` have none to bound."""
    found, constant, b = torch.zeros_like(a), a.new_zeros(len(a)), torch.zeros_like(a[:, 0])
    for t in reversed(range(a.shape[1])):
        slope, offset = line(lif, a[:, t], b, membrane.low[t], membrane.high[t])
        if direct is not None:
            slope = slope + direct[:, t]
        constant = constant + (offset - slope.abs() * membrane.error[t]).flatten(1).sum(1)
        found[:, t], b = lif.gain * slope, lif.leak * slope
    return found, constant + (b * lif.start).flatten(1).sum(1)


def lower(
    layers: Layers, seen: list[Seen], h: Interval, place: int, a: Tensor, direct: Tensor | None = None, *, deep: bool = True
) -> Tensor:
    """A lower bound [S] on the sum of `a` times the currents of block `place`, [S, T, ...], for one sample's inputs `h` [1, 1, ...].

    With `direct` [S, T, ...] on the sum of `direct` times the membranes of that block, and `a` zero. The bound is the best of those that end
    at each layer on the way: the one that ends at the nearest, the only one without `deep`, is S-IBP's.
    """
    constant, best = a.new_zeros(len(a)), a.new_full((len(a),), -torch.inf)
    lif = layers.blocks[place].lif
    if direct is not None and lif is not None:
        a, constant = through_neurons(lif, a, direct, _of_sample(seen[place].membrane))
    for index in range(place, -1, -1):
        if index == 0:
            a = a.sum(1, keepdim=True)
        count, steps = a.shape[:2]
        flat = a.flatten(0, 1)
        for each in reversed(layers.blocks[index].maps):
            constant = constant + (flat * each.bias).flatten(1).sum(1).unflatten(0, (count, steps)).sum(1)
            flat = each.back(flat)
        a = flat.unflatten(0, (count, steps))
        low, high = (h.low, h.high) if index == 0 else (seen[index - 1].low, seen[index - 1].high)
        ends = (a.clamp_min(0) * low[:, 0] + a.clamp_max(0) * high[:, 0]).flatten(1).sum(1)
        best = torch.maximum(best, constant + ends)
        before = layers.blocks[index - 1].lif if index else None
        if before is None or not deep:
            break
        a, more = through_neurons(before, a, None, _of_sample(seen[index - 1].membrane))
        constant = constant + more
    return best


def _of_sample(membrane: Interval) -> Interval:
    return Interval(*(each[:, 0] for each in membrane))


def refined(layers: Layers, h: Interval, *, refine: int) -> tuple[list[Seen], Interval]:
    """As `intervals.propagate` for one sample, with the membranes of layers of at most `refine` neurons bounded by `lower` too."""
    seen: list[Seen] = []
    inputs = h
    for place, block in enumerate(layers.blocks):
        x = currents(block, h)
        if block.lif is None:
            return seen, x
        tighten = None
        if torch.Size(block.shape).numel() <= refine:

            def tighten(t: int, u: Interval, before: list[Interval], place: int = place) -> Interval:
                return _tightened(layers, seen, inputs, place, t, u, before)

        seen.append(fired(block.lif, x, layers.steps, tighten=tighten))
        h = Interval(seen[-1].low, seen[-1].high, torch.zeros_like(seen[-1].low))
    raise AssertionError("a network ends with its readout")


def _tightened(
    layers: Layers, seen: list[Seen], h: Interval, place: int, t: int, u: Interval, before: list[Interval]
) -> Interval:
    """`u` [1, ...] of step `t` met with the linear bounds, where it is not decided whether the neuron fires."""
    lif = layers.blocks[place].lif
    assert lif is not None
    unsure = (~lif.fires(u.low) & lif.fires(u.high)).flatten().nonzero().squeeze(1)
    if len(unsure) == 0:
        return u
    known = Interval(*(torch.stack([*parts, *[parts[-1]] * (layers.steps - t - 1)]) for parts in zip(*before, u, strict=True)))
    here = [*seen[:place], Seen(known, known.low, known.high)]
    low, high = u.low.flatten().clone(), u.high.flatten().clone()
    largest = max(torch.Size(block.shape).numel() for block in layers.blocks[: place + 1])
    size = max(1, _ELEMENTS // (2 * layers.steps * largest))
    for rows in unsure.split(size):
        direct = u.low.new_zeros((2, len(rows), layers.steps, len(low)))
        places = torch.arange(len(rows))
        direct[0, places, t, rows], direct[1, places, t, rows] = 1.0, -1.0
        wanted = direct.flatten(0, 1).unflatten(2, u.low.shape[1:])
        found = lower(layers, here, h, place, torch.zeros_like(wanted), wanted)
        low[rows], high[rows] = torch.maximum(low[rows], found[: len(rows)]), torch.minimum(high[rows], -found[len(rows) :])
    return Interval(low.view_as(u.low), torch.maximum(low, high).view_as(u.high), u.error)
