"""The fused layer of neurons: all time steps in one pass over the memory, forward and backward."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trustsnn.kernels import accelerated
from trustsnn.kernels.native import Neuron, required

Keep = Literal["nothing", "full", "half", "recompute"]

SURROGATES = ("triangular", "rectangular", "atan", "sigmoid", "exponential", "ste")
_HARD, _STRICT, _DETACH, _HALF, _CONSTANT, _LEAKY, RECOMPUTE = 1, 2, 4, 8, 16, 32, 64


@dataclass(frozen=True)
class Layer:
    """The numbers of a layer of neurons, see `trustsnn.neurons.Dynamics`; `initial` is V0 itself, in float32."""

    leak: float
    threshold: float
    gain: float
    initial: float
    hard: bool
    strict: bool
    detach: bool
    leaky: bool


class Gradients(NamedTuple):
    """dLoss/dcurrent, shaped as the current, and per sample dLoss/dleak and dLoss/dthreshold [B] (double) if asked for."""

    current: Tensor
    leak: Tensor | None
    threshold: Tensor | None


def dense(sequence: Tensor) -> Tensor:
    """`sequence` [T, B, ...] with each step and each sample in one piece of memory, in rows or channels last."""
    if sequence.is_contiguous():
        return sequence
    if sequence.dim() == 5 and sequence.movedim(2, -1).is_contiguous():
        return sequence
    return sequence.contiguous()


def as_laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` in the memory order of `like`, copied only where it differs."""
    same = all(a == b for a, b, size in zip(tensor.stride(), like.stride(), like.shape, strict=True) if size > 1)
    return tensor if same else sequence_like(like, len(like), tensor.dtype).copy_(tensor)


def sequence_like(current: Tensor, steps: int, dtype: torch.dtype | None = None) -> Tensor:
    """An empty [steps, B, ...] in the memory order of `current` [T, B, ...]."""
    dtype = dtype or current.dtype
    if current.is_contiguous():
        return current.new_empty((steps, *current.shape[1:]), dtype=dtype)
    last = current.new_empty((steps, current.shape[1], *current.shape[3:], current.shape[2]), dtype=dtype)
    return last.movedim(-1, 2)


def forward(current: Tensor, steps: int, layer: Layer, keep: Keep) -> tuple[Tensor, Tensor]:
    """Spikes [steps, B, ...] and the kept membrane of a `current` [steps, B, ...], or [1, B, ...] for a constant one.

    The membrane is u before the spike ("full", in float32 or wider), u - threshold in bfloat16 ("half": the spike is
    its sign), or empty ("nothing", "recompute").
    """
    kernel = accelerated(current)
    if kernel == "triton":
        from trustsnn.kernels import triton_lif

        return triton_lif.forward(current, steps, layer, keep)
    current = dense(current)
    spikes = sequence_like(current, steps)
    if keep in ("nothing", "recompute"):
        membrane = current.new_empty(0)
    else:
        half = keep == "half" and kernel == "native"
        membrane = sequence_like(current, steps, torch.bfloat16 if half else None)
    if spikes.numel() == 0:
        return spikes, membrane
    if kernel == "native":
        neuron = neuron_of(current, steps, layer, membrane.dtype)
        where = membrane.data_ptr() if membrane.numel() else None
        required().trustsnn_lif_forward(ctypes.byref(neuron), None, current.data_ptr(), spikes.data_ptr(), where)
    else:
        from trustsnn.kernels import jit

        jit.lif_forward(current, spikes, membrane, layer)
    return spikes, membrane


def backward(
    current: Tensor | None,
    membrane: Tensor | None,
    to_spikes: Tensor,
    layer: Layer,
    surrogate: str,
    width: float,
    *,
    constant: bool,
    sums: bool,
) -> Gradients:
    """The gradient estimator STBP (`trustsnn.neurons.STBP`) over a whole layer.

    Args:
        current: as in `forward`; needed where `membrane` is None and is made again, or a leaky gain's leak has a gradient.
        membrane: as `forward` kept it.
        to_spikes: dLoss/dspikes [T, B, ...].
        constant: the current is the same at each step; its gradient is summed over them, [1, B, ...].
        sums: also the gradients of leak and threshold.
    """
    kernel = accelerated(to_spikes)
    if kernel == "triton":
        from trustsnn.kernels import triton_lif

        return triton_lif.backward(current, membrane, to_spikes, layer, surrogate, width, constant=constant, sums=sums)
    steps = len(to_spikes)
    membrane = dense(membrane) if membrane is not None else None
    kept = membrane if membrane is not None else dense(_given(current))
    to_spikes = as_laid_out(to_spikes, kept if len(kept) == steps else sequence_like(kept, steps))
    if current is not None:
        current = as_laid_out(current, kept[: len(current)])
    out = sequence_like(to_spikes, 1 if constant else steps)
    if to_spikes.numel() == 0:
        zeros = to_spikes.new_zeros(to_spikes.shape[1], dtype=torch.float64)
        return Gradients(out.zero_(), zeros if sums else None, zeros if sums else None)
    if kernel == "numba":
        from trustsnn.kernels import jit

        return jit.lif_backward(current, membrane, to_spikes, out, layer, surrogate, width, sums=sums)
    neuron = neuron_of(to_spikes, steps, layer, kept.dtype)
    neuron.flags |= (_CONSTANT if constant else 0) | (RECOMPUTE if membrane is None else 0)
    neuron.surrogate, neuron.width = SURROGATES.index(surrogate), width
    spans = -(-neuron.size // _span(neuron))
    totals = torch.empty((2, neuron.batch, spans) if sums else 0, dtype=torch.float64)
    required().trustsnn_lif_backward(
        ctypes.byref(neuron),
        current.data_ptr() if current is not None else None,
        membrane.data_ptr() if membrane is not None else None,
        to_spikes.data_ptr(),
        out.data_ptr(),
        totals[0].data_ptr() if sums else None,
        totals[1].data_ptr() if sums else None,
    )
    return Gradients(out, totals[0].sum(1) if sums else None, totals[1].sum(1) if sums else None)


def neuron_of(sequence: Tensor, steps: int, layer: Layer, kept: torch.dtype = torch.float32) -> Neuron:
    """What the native kernel is told of a layer whose current or spikes are `sequence` [T, B, ...]."""
    return neurons(len(sequence), sequence.shape[1], sequence[0].numel() // sequence.shape[1], steps, layer, kept)


def neurons(given: int, batch: int, size: int, steps: int, layer: Layer, kept: torch.dtype = torch.float32) -> Neuron:
    """What it is told of `size` neurons a sample and a current of `given` steps."""
    flags = _HARD * layer.hard | _STRICT * layer.strict | _DETACH * layer.detach | _LEAKY * layer.leaky
    flags |= _HALF * (kept == torch.bfloat16) | _CONSTANT * (given == 1 and steps > 1)
    threads = torch.get_num_threads()
    return Neuron(steps, batch, size, threads, flags, 0, layer.leak, layer.threshold, layer.gain, layer.initial, 1.0)


def _span(neuron: Neuron) -> int:
    return int(required().trustsnn_span(ctypes.byref(neuron)))


def _given(current: Tensor | None) -> Tensor:
    if current is None:
        raise ValueError("A membrane that was not kept is made again from the current, which was not given.")
    return current
