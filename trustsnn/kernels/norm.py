"""Batch normalisation and the neurons after it in one pass: the normalised current is never written. Native kernel only."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from trustsnn.kernels import lif
from trustsnn.kernels.lif import Layer
from trustsnn.kernels.native import Norm, required


class Statistics(NamedTuple):
    """Of the channels of a batch: mean and standard deviation [2, C] in double precision, and in float32 the scale and shift [C] that
    normalise by them."""

    exact: Tensor
    scale: Tensor
    shift: Tensor


class Gradients(NamedTuple):
    """dLoss/dx as x, dLoss/d(gamma, beta) [C], and dLoss/d(leak, threshold) [] if asked for."""

    x: Tensor
    gamma: Tensor
    beta: Tensor
    leak: Tensor | None
    threshold: Tensor | None


def fits(x: Tensor) -> bool:
    """Whether the kernel takes `x` [N, C] or [N, C, H, W]: channels side by side, those of a sample a multiple of 16."""
    channels_last = x.is_contiguous() if x.dim() == 2 else x.is_contiguous(memory_format=torch.channels_last)
    return channels_last and x.shape[1:].numel() % 16 == 0 and x.numel() > 0


def statistics(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, running_mean: Tensor, running_variance: Tensor, momentum: float
) -> Statistics:
    """Those of `x` [N, C] or [N, C, H, W] for a normalisation to `gamma` times unit variance plus `beta`. The running ones [C] move
    towards them."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    exact, rounded = torch.empty((2, channels), dtype=torch.float64), torch.empty((2, channels))
    required().trustsnn_channel_statistics(
        x.data_ptr(), gamma.data_ptr(), beta.data_ptr(), pixels, channels, torch.get_num_threads(), eps, momentum,
        exact.data_ptr(), rounded.data_ptr(), running_mean.data_ptr(), running_variance.data_ptr(),
    )  # fmt: skip
    torch.autograd.graph.increment_version((running_mean, running_variance))
    return Statistics(exact, rounded[0], rounded[1])


def _sums(x: Tensor) -> Tensor:
    """The sums of x - x_0 and of its square for each channel, [2, C] in double precision, x_0 being the first pixel's."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    sums = torch.empty((2, channels), dtype=torch.float64)
    required().trustsnn_channel_sums(x.data_ptr(), pixels, channels, torch.get_num_threads(), sums.data_ptr())
    return sums


def forward(
    x: Tensor,
    steps: int,
    given: int,
    layer: Layer,
    scale: Tensor,
    shift: Tensor,
    start: Tensor | None = None,
    *,
    resumable: bool = False,
) -> tuple[Tensor, Tensor]:
    """Spikes [steps * B, C, ...] of neurons whose current is `x` [given * B, C, ...] times `scale` plus `shift`, each [C]; and, if
    `resumable`, the membrane [B, C, ...] that they leave, else nothing. `start` is the one that earlier steps left."""
    batch, shape = len(x) // given, x.shape[1:]
    spikes = torch.empty((steps * batch, *shape), memory_format=memory_format(x))
    neuron = lif.neurons(given, batch, shape.numel(), steps, layer)
    end = torch.empty((batch, *shape), memory_format=memory_format(x)) if resumable else torch.empty(0)
    neuron.start, neuron.end = _address(start), end.data_ptr() if resumable else None
    norm = Norm(x.shape[1], scale.data_ptr(), shift.data_ptr())
    required().trustsnn_lif_forward(ctypes.byref(neuron), ctypes.byref(norm), x.data_ptr(), spikes.data_ptr(), None)
    return spikes, end


def memory_format(x: Tensor) -> torch.memory_format:
    """That of the spikes and membranes of `x` [N, C] or [N, C, H, W]."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def _address(start: Tensor | None) -> int | None:
    return start.data_ptr() if start is not None else None


def backward(
    x: Tensor, to_spikes: Tensor, given: int, layer: Layer, found: Statistics, gamma: Tensor, surrogate: str, width: float,
    start: Tensor | None = None, *, sums: bool,
) -> Gradients:  # fmt: skip
    """The gradients of `forward`'s spikes where scale and shift came of the batch's own statistics and of `gamma`."""
    channels, batch = x.shape[1], len(x) // given
    to_spikes = to_spikes.contiguous(memory_format=memory_format(x))
    out, gradients = torch.empty_like(x), torch.empty(2 * channels + 2)
    neuron = lif.neurons(given, batch, x.shape[1:].numel(), len(to_spikes) // batch, layer)
    neuron.flags |= lif.RECOMPUTE
    neuron.start = _address(start)
    if not sums:
        neuron.batch, neuron.size = 1, neuron.batch * neuron.size
    neuron.surrogate, neuron.width = lif.SURROGATES.index(surrogate), width
    norm = Norm(channels, found.scale.data_ptr(), found.shift.data_ptr())
    required().trustsnn_normalised_backward(
        ctypes.byref(neuron), ctypes.byref(norm), x.data_ptr(), to_spikes.data_ptr(), found.exact.data_ptr(), gamma.data_ptr(), sums,
        out.data_ptr(), gradients.data_ptr(),
    )  # fmt: skip
    leak, threshold = (gradients[-2], gradients[-1]) if sums else (None, None)
    return Gradients(out, gradients[:channels], gradients[channels : 2 * channels], leak, threshold)


def backward_alone(x: Tensor, to_out: Tensor, found: Statistics, gamma: Tensor) -> Gradients:
    """The gradients of x times scale plus shift alone."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    out, gradients = torch.empty_like(x).copy_(to_out), torch.empty((2, channels))
    sums = torch.stack(
        [_sums(each)[0] + each[(0, slice(None)) + (0,) * (x.dim() - 2)].double() * pixels for each in (out, out * x)]
    )
    required().trustsnn_channel_slopes(
        out.data_ptr(), x.data_ptr(), sums.data_ptr(), found.exact.data_ptr(), gamma.data_ptr(), pixels, channels,
        torch.get_num_threads(), gradients.data_ptr(),
    )  # fmt: skip
    return Gradients(out, gradients[0], gradients[1], None, None)
