"""Spikes as times instead of trains: latency coding, and the spikes of a batch in the order in which they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor


def drawn(shape: Sequence[int], draw: Callable[[Sequence[int]], NDArray[Any]]) -> Tensor:
    """What `draw(shape)` gives, in float32; on the meta device, where the size of a checkpoint is checked, no values."""
    empty = torch.empty(tuple(shape))
    return empty if empty.is_meta else torch.from_numpy(draw(shape)).float()


class _Latency(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, last: int) -> Tensor:
        ctx.last = last
        return ((1 - x) * last).floor().clamp(0, last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.last * gradients[0], None


def latency_times(x: Tensor, last: int) -> Tensor:
    """The step of each value's only spike, floor((1 - x) last), x in [0, 1]: whole numbers of x's type and shape.

    `last` stands for no spike in time; 0 is coded so. Straight-through gradient: d t / d x = -last.
    """
    result: Tensor = _Latency.apply(x, last)  # type: ignore[no-untyped-call]
    return result


class Volley(NamedTuple):
    """The spikes of a batch in order, [N, B] each, N the most that a sample has; samples with fewer are filled up.

    `neuron`: which of the I inputs spikes, I in a filled place. `time`: when, `last` in a filled place. `closes`: whether no
    later place has a spike of the same time.
    """

    neuron: Tensor
    time: Tensor
    closes: Tensor


def in_order(times: Tensor, last: float) -> Volley:
    """The spikes of `times` [B, I] before `last`, by time and, where equal, by neuron."""
    count = int((times < last).sum(1).max()) if times.numel() else 0
    neuron = times.argsort(dim=1, stable=True)[:, :count]
    time = times.gather(1, neuron).t().contiguous()
    neuron = neuron.t().contiguous()
    fills = time >= last
    after = torch.cat([time[1:], torch.full_like(time[:1], last)])
    return Volley(neuron.masked_fill(fills, times.shape[1]), time.masked_fill(fills, last), (time < after) & ~fills)


def padded(weight: Tensor) -> Tensor:
    """`weight` [I, J] with a row of zeros for the filled places of a volley."""
    return torch.cat([weight, weight.new_zeros(1, weight.shape[1])])
