"""Batch normalisation and the neurons after it in one pass: the normalised current is never written. Native kernel only."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from trustsnn.kernels import lif
from trustsnn.kernels.lif import Layer
from trustsnn.kernels.native import Norm, required


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


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel of `x` [N, C] or [N, C, H, W], in double precision, [C]."""
    channels = x.shape[1]
    pixels = x.numel() // channels
    sums = torch.empty((-(-pixels // 1024), 2, channels), dtype=torch.float64)
    required().trustsnn_channel_sums(x.data_ptr(), pixels, channels, torch.get_num_threads(), sums.data_ptr())
    first, second = sums.sum(0) / pixels
    start = x[(0, slice(None)) + (0,) * (x.dim() - 2)].double()
    return first + start, (second - first.square()).clamp_min_(0)


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
    x: Tensor, to_spikes: Tensor, given: int, layer: Layer, mean: Tensor, spread: Tensor, gamma: Tensor, beta: Tensor,
    surrogate: str, width: float, start: Tensor | None = None, *, sums: bool,
) -> Gradients:  # fmt: skip
    """The gradients of `forward`'s spikes where scale and shift came of the batch's own `mean` and standard deviation `spread`, [C]
    in double precision, and of `gamma` and `beta`."""
    channels = x.shape[1]
    scale, shift = affine(mean, spread, gamma, beta)
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
    norm = Norm(channels, scale.data_ptr(), shift.data_ptr(), channel_sums.data_ptr())
    required().trustsnn_lif_backward(
        ctypes.byref(neuron), ctypes.byref(norm), x.data_ptr(), None, to_spikes.data_ptr(), out.data_ptr(),
        totals[0].data_ptr() if sums else None, totals[1].data_ptr() if sums else None,
    )  # fmt: skip
    to_beta, with_x = channel_sums.sum(0)
    to_gamma = _through_statistics(out, x, to_beta, with_x, mean, spread, gamma)
    leak, threshold = (totals[0].sum(1), totals[1].sum(1)) if sums else (None, None)
    return Gradients(out.flatten(0, 1), to_gamma, to_beta, leak, threshold)


def backward_alone(x: Tensor, to_out: Tensor, mean: Tensor, spread: Tensor, gamma: Tensor) -> Gradients:
    """The gradients of x times scale plus shift alone."""
    out, pixels = torch.empty_like(x).copy_(to_out), x.numel() // x.shape[1]
    to_beta, with_x = (statistics(each)[0] * pixels for each in (out, out * x))
    return Gradients(out, _through_statistics(out, x, to_beta, with_x, mean, spread, gamma), to_beta, None, None)


def _through_statistics(
    out: Tensor, x: Tensor, to_beta: Tensor, with_x: Tensor, mean: Tensor, spread: Tensor, gamma: Tensor
) -> Tensor:
    """dLoss/dgamma; `out`, dLoss/d(normalised x), becomes dLoss/dx in place. `to_beta` and `with_x` are the channels' sums of it and of
    its product with x."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    scale = (gamma.double() / spread).float()
    to_gamma = (with_x - to_beta * mean) / spread
    # dx = scale (g - mean(g) - xhat mean(g xhat)) with xhat = (x - mean) / spread
    slope = -gamma.double() * to_gamma / (spread.square() * pixels)
    by = torch.stack([scale, slope.float(), (-scale.double() * to_beta / pixels - slope * mean).float()])
    required().trustsnn_channel_combine(
        out.data_ptr(), x.data_ptr(), by.data_ptr(), pixels, channels, torch.get_num_threads()
    )  # fmt: skip
    return to_gamma


def affine(mean: Tensor, spread: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] in float32 that normalise by `mean` and `spread`."""
    scale = gamma.double() / spread
    return scale.float(), (beta.double() - mean * scale).float()
