"""How often inputs meet synapses: the count behind every figure of synaptic operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
Convolve = Callable[[Tensor, Tensor], Tensor]  # of a signal with a kernel


def meetings(weighed: Tensor, synapses: Tensor, groups: int, convolve: Convolve) -> Tensor:
    """For each row of a signal [N, ...] the sum over its inputs of what each weighs times the number of synapses that it meets, [N],
    float64.

    `synapses` [out, in / groups, ...] are 1 where there is a weight; `convolve` is the layer's own convolution with a kernel of one
    output a group. A bias, and the zeros that pad an image, are no synapse.
    """
    kernel = synapses.double().unflatten(0, (groups, -1)).sum(1)
    return convolve(weighed.double(), kernel).flatten(1).sum(1)


def synaptic_operations(layer: nn.Module, weighed: Tensor, *, dense: bool = False) -> Tensor:
    """The same for a convolution or a linear layer, whose weights of 0 count with `dense` alone."""
    assert isinstance(layer, WEIGHTED)
    weight = layer.weight.detach()
    synapses = torch.ones_like(weight) if dense else weight != 0
    if isinstance(layer, nn.Linear):
        return meetings(weighed, synapses, 1, linear)
    return meetings(weighed, synapses, layer.groups, lambda x, kernel: layer._conv_forward(x, kernel, None))


def outputs_of(layer: nn.Module, row: Tensor) -> int:
    """How many outputs a convolution or linear layer has for an input of the shape of `row` [1, ...]."""
    assert isinstance(layer, WEIGHTED)
    channels = len(layer.weight)
    if isinstance(layer, nn.Linear):
        return channels * row[0, ..., 0].numel()
    kernel = layer.weight.new_zeros((layer.groups, *layer.weight.shape[1:]))
    found: Tensor = layer._conv_forward(row.to(kernel), kernel, None)
    return found.numel() // layer.groups * channels


def attention_operations(parts: Sequence[Tensor], heads: int, *, dense: bool = False) -> Tensor:
    """The products of Q (K^T V) whose factors are not 0, with `dense` all of them, for each row of Q, K and V [N, C, H, W], [N], float64.
    What K^T V gives counts as not 0."""
    q, k, v = ((torch.ones_like(part) if dense else part != 0).double().flatten(2).unflatten(1, (heads, -1)) for part in parts)
    inner = (k.sum(2) * v.sum(2)).flatten(1).sum(1)
    found: Tensor = inner + q.flatten(1).sum(1) * v.shape[2]
    return found
