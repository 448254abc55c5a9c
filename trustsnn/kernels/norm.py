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
    """Of the channels of a batch, each [C]: mean and standard deviation in double precision; in float32 the scale and shift that
    normalise by them, and the mean and the unbiased variance."""

    mean: Tensor
    spread: Tensor
    scale: Tensor
    shift: Tensor
    rounded_mean: Tensor
    variance: Tensor


class Gradients(NamedTuple):
    """dLoss/dx as x, dLoss/d(gamma, beta) [C], and per sample dLoss/d(leak, threshold) [B] (double) if asked for."""

    x: Tensor
    gamma: Tensor
    beta: Tensor
    leak: Tensor | None
    threshold: Tensor | None


def fits(x: Tensor) -> bool:
    """Whether the kernel takes `x` [N, C] or [N, C, H, W]: channels side by side, a multiple of 16 of them."""
    channels_last = x.is_contiguous() if x.dim() == 2 else x.is_contiguous(memory_format=torch.channels_last)
    return channels_last and x.shape[1] % 16 == 0 and x.numel() > 0


def statistics(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Statistics:
    """Those of `x` [N, C] or [N, C, H, W] for a normalisation to `gamma` times unit variance plus `beta`."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    sums, exact, rounded = _sums(x), torch.empty((2, channels), dtype=torch.float64), torch.empty((4, channels))
    required().trustsnn_channel_affine(
        sums.data_ptr(), x.data_ptr(), gamma.data_ptr(), beta.data_ptr(), pixels, channels, eps, exact.data_ptr(), rounded.data_ptr()
    )  # fmt: skip
    return Statistics(*exact, *rounded)


def _sums(x: Tensor) -> Tensor:
    """The sums of x - x_0 and of its square for each channel, [2, C] in double precision, x_0 being the first pixel's."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    sums = torch.empty((-(-pixels // 1024), 2, channels), dtype=torch.float64)
    required().trustsnn_channel_sums(x.data_ptr(), pixels, channels, torch.get_num_threads(), sums.data_ptr())
    return sums.sum(0)


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
    sequence = x.unflatten(0, (given, -1))
    spikes = lif.sequence_like(sequence, steps)
    neuron = lif.neuron_of(sequence, steps, layer)
    end = lif.sequence_like(sequence, 1)[0] if resumable else x.new_empty(0)
    neuron.start, neuron.end = _address(start), end.data_ptr() if resumable else None
    norm = Norm(x.shape[1], scale.data_ptr(), shift.data_ptr(), None)
    required().trustsnn_lif_forward(ctypes.byref(neuron), ctypes.byref(norm), x.data_ptr(), spikes.data_ptr(), None)
    return spikes.flatten(0, 1), end


def _address(start: Tensor | None) -> int | None:
    return start.data_ptr() if start is not None else None


def backward(
    x: Tensor, to_spikes: Tensor, given: int, layer: Layer, found: Statistics, gamma: Tensor, surrogate: str, width: float,
    start: Tensor | None = None, *, sums: bool,
) -> Gradients:  # fmt: skip
    """The gradients of `forward`'s spikes where scale and shift came of the batch's own statistics and of `gamma`."""
    channels = x.shape[1]
    sequence = x.unflatten(0, (given, -1))
    steps = len(to_spikes) // sequence.shape[1]
    to_spikes = lif.as_laid_out(to_spikes.unflatten(0, (steps, -1)), lif.sequence_like(sequence, steps))
    out = lif.sequence_like(sequence, given)
    neuron = lif.neuron_of(sequence, steps, layer)
    neuron.flags |= lif.RECOMPUTE
    neuron.start = _address(start)
    if not sums:
        neuron.batch, neuron.size = 1, neuron.batch * neuron.size
    neuron.surrogate, neuron.width = lif.SURROGATES.index(surrogate), width
    spans = neuron.batch * -(-neuron.size // int(required().trustsnn_span(ctypes.byref(neuron))))
    channel_sums = torch.empty((spans, 2, channels), dtype=torch.float64)
    totals = torch.empty((2, neuron.batch, spans // neuron.batch) if sums else 0, dtype=torch.float64)
    norm = Norm(channels, found.scale.data_ptr(), found.shift.data_ptr(), channel_sums.data_ptr())
    required().trustsnn_lif_backward(
        ctypes.byref(neuron), ctypes.byref(norm), x.data_ptr(), None, to_spikes.data_ptr(), out.data_ptr(),
        totals[0].data_ptr() if sums else None, totals[1].data_ptr() if sums else None,
    )  # fmt: skip
    to_gamma, to_beta = _through_statistics(out, x, channel_sums.sum(0), found, gamma)
    leak, threshold = (totals[0].sum(1), totals[1].sum(1)) if sums else (None, None)
    return Gradients(out.flatten(0, 1), to_gamma, to_beta, leak, threshold)


def backward_alone(x: Tensor, to_out: Tensor, found: Statistics, gamma: Tensor) -> Gradients:
    """The gradients of x times scale plus shift alone."""
    out, pixels = torch.empty_like(x).copy_(to_out), x.numel() // x.shape[1]
    sums = torch.stack(
        [_sums(each)[0] + each[(0, slice(None)) + (0,) * (x.dim() - 2)].double() * pixels for each in (out, out * x)]
    )
    return Gradients(out, *_through_statistics(out, x, sums, found, gamma), None, None)


def _through_statistics(out: Tensor, x: Tensor, sums: Tensor, found: Statistics, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """dLoss/d(gamma, beta); `out`, dLoss/d(normalised x), becomes dLoss/dx in place. `sums` [2, C] are the channels' of it and of its
    product with x."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    by, gradients = torch.empty((3, channels)), torch.empty((2, channels))
    known = required()
    known.trustsnn_channel_slopes(
        sums.data_ptr(), found.mean.data_ptr(), found.spread.data_ptr(), gamma.data_ptr(), pixels, channels, by.data_ptr(),
        gradients.data_ptr(),
    )  # fmt: skip
    known.trustsnn_channel_combine(out.data_ptr(), x.data_ptr(), by.data_ptr(), pixels, channels, torch.get_num_threads())
    return gradients[0], gradients[1]
