"""The fused layer of neurons in Triton, for tensors on a CUDA device: all time steps with the state in registers.

Each program takes a block of neurons through all steps, so a step reads its current and writes its spikes, and nothing else
goes through memory but what the backward pass asked to keep. Arithmetic is float32 whatever the dtype of the current, and
multiplications are not contracted with additions: float32 spikes are those of the other kernels, bit for bit. Import this
module only where Triton is installed. With TRITON_INTERPRET=1 the same kernels run on CPU tensors, for tests.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.kernels.lif import Gradients, Keep, Layer, as_laid_out, dense, sequence_like

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_BLOCK = 1024  # neurons of a program at most: 8 for each thread of 4 warps, two 16-byte loads of float32


class Affine(NamedTuple):
    """What batch normalisation in evaluation form does to a channel: `x * scale + shift`, both float32 [C]."""

    scale: Tensor
    shift: Tensor


def affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Affine:
    """`norm` in evaluation form. Carries no gradient; a norm without running statistics is a ModelContractError."""
    if norm.running_mean is None or norm.running_var is None:
        raise ModelContractError("A normalisation without running statistics has no evaluation form to fuse with its neurons.")
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var.double() + norm.eps)
        scale = scale * norm.weight.double() if norm.affine else scale
        shift = -norm.running_mean.double() * scale
        shift = shift + norm.bias.double() if norm.affine else shift
        return Affine(scale.float(), shift.float())


@triton.jit  # type: ignore[untyped-decorator]
def _derivative(d, width, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """The surrogate derivative at distance `d`, see trustsnn.neurons.surrogates."""
    if KIND == "triangular":
        found = tl.maximum(width - tl.abs(d), 0.0) * (1.0 / (width * width))
    elif KIND == "rectangular":
        found = tl.where(tl.abs(d) < width, 0.5 / width, 0.0)
    elif KIND == "atan":
        z = d * (1.57079632679 / width)
        found = 1.0 / (z * z + 1.0) * (0.5 / width)
    elif KIND == "sigmoid":
        e = tl.exp(-tl.abs(d) / width)
        rate = 1.0 / (e + 1.0)
        found = e * rate * rate / width
    elif KIND == "exponential":
        found = tl.exp(-tl.abs(d) / width) / width
    else:
        found = d * 0.0 + 1.0
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _fired(d, STRICT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether a neuron at distance `d = u - V` fires; u - V has the sign of the comparison, as float32 underflows gradually."""
    return d > 0.0 if STRICT else d >= 0.0


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    current, scale, shift, spikes, membrane, total, steps, channels, inner, leak, threshold, gain, initial,
    HARD: tl.constexpr, STRICT: tl.constexpr, CONSTANT: tl.constexpr, AFFINE: tl.constexpr, SPIKES: tl.constexpr,
    KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of the `total` neurons of a step; `inner` of them lie between two channels in memory. Without SPIKES only the
    membrane is made, for the backward pass."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    if AFFINE:
        channel = at // inner % channels
        a, b = tl.load(scale + channel, inside, 0.0), tl.load(shift + channel, inside, 0.0)
    after = tl.zeros([BLOCK], tl.float32) + initial
    for _ in range(steps):
        x = tl.load(current + at, inside, 0.0).to(tl.float32)
        if AFFINE:
            x = x * a + b
        u = after * leak + x * gain
        d = u - threshold
        fired = _fired(d, STRICT)
        after = tl.where(fired, 0.0 if HARD else d, u)
        if SPIKES:
            tl.store(spikes + at, tl.where(fired, 1.0, 0.0).to(spikes.dtype.element_ty), inside)
            spikes += total
        if KEEP == "full":
            tl.store(membrane + at, u, inside)
        if KEEP == "half":
            tl.store(membrane + at, d.to(tl.bfloat16), inside)
        if KEEP == "full" or KEEP == "half":
            membrane += total
        if not CONSTANT:
            current += total


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    current, scale, shift, membrane, to_spikes, out, to_leak, to_threshold, total, size, steps, channels, inner,
    leak, threshold, gain, initial, width,
    HARD: tl.constexpr, STRICT: tl.constexpr, DETACH: tl.constexpr, LEAKY: tl.constexpr, CONSTANT: tl.constexpr,
    AFFINE: tl.constexpr, SUMS: tl.constexpr, HALF: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sequences point to their last step and are read towards the first. `size` is the neurons of a sample, in whose sum
    no other may be; where nothing is summed it is those of a step, `total`."""
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(size, BLOCK)
    within = program % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = within < size
    at = program // blocks * size + within
    if AFFINE:
        channel = at // inner % channels
        a, b = tl.load(scale + channel, inside, 0.0), tl.load(shift + channel, inside, 0.0)
    to_membrane = tl.zeros([BLOCK], tl.float32)  # dLoss/du of the step after
    summed = tl.zeros([BLOCK], tl.float32)
    leaks = tl.zeros([BLOCK], tl.float64)
    thresholds = tl.zeros([BLOCK], tl.float64)
    kept = tl.load(membrane + at, inside, 0.0).to(tl.float32)
    for step in range(steps):
        d = kept if HALF else kept - threshold
        u = kept + threshold if HALF else kept
        fired = _fired(d, STRICT)
        carried = to_membrane * leak  # dLoss/dv, v after the reset
        to_spike = tl.load(to_spikes + at, inside, 0.0).to(tl.float32)
        if not DETACH:
            to_spike -= carried * (u if HARD else threshold)
        through = _derivative(d, width, KIND) * to_spike
        to_membrane = through + (tl.where(fired, 0.0, carried) if HARD else carried)
        # the step before: read here for the next turn, and for the membrane that the leak multiplied
        membrane -= total
        earlier = within < tl.where(step + 1 < steps, size, 0)
        kept = tl.load(membrane + at, earlier, 0.0).to(tl.float32)
        if SUMS:
            thresholds -= through if HARD else through + tl.where(fired, carried, 0.0)
            before_d = kept if HALF else kept - threshold
            before_u = kept + threshold if HALF else kept
            left = tl.where(_fired(before_d, STRICT), 0.0 if HARD else before_u - threshold, before_u)
            leaks += to_membrane * tl.where(earlier, left, initial)
            if LEAKY:
                x = tl.load(current + at, inside, 0.0).to(tl.float32)
                if AFFINE:
                    x = x * a + b
                leaks -= to_membrane * x
                if not CONSTANT:
                    current -= total
        to_current = to_membrane * gain
        if AFFINE:
            to_current *= a
        if CONSTANT:
            summed += to_current
        else:
            tl.store(out + at, to_current.to(out.dtype.element_ty), inside)
            out -= total
        to_spikes -= total
    if CONSTANT:
        tl.store(out + at, summed.to(out.dtype.element_ty), inside)
    if SUMS:
        thresholds += to_membrane * (leak * initial / threshold)
        tl.store(to_leak + program, tl.sum(leaks, 0))  # places outside read zeros and add none
        tl.store(to_threshold + program, tl.sum(thresholds, 0))


def forward(current: Tensor, steps: int, layer: Layer, keep: Keep, norm: Affine | None = None) -> tuple[Tensor, Tensor]:
    """Spikes [steps, B, ...], in the dtype of the current, and the kept membrane: see `trustsnn.kernels.lif.forward`.

    Args:
        current: [steps, B, ...], or [1, B, ...] for a constant one; float32, float16 or bfloat16.
        keep: "full" keeps u in float32 whatever the dtype of the current, "half" u - threshold in bfloat16.
        norm: applied to the channels of the current [T, B, C, ...] as it is read, see `affine`.
    """
    current = dense(current)
    spikes = sequence_like(current, steps)
    kept = {"full": torch.float32, "half": torch.bfloat16}.get(keep)
    membrane = sequence_like(current, steps, kept) if kept else current.new_empty(0)
    _run_forward(current, steps, layer, keep, norm, spikes, membrane)
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
    norm: Affine | None = None,
) -> Gradients:
    """The gradient estimator STBP over a whole layer: see `trustsnn.kernels.lif.backward`.

    A membrane that was not kept (None or empty) is made again from the current, in float32. With `norm` the gradient is the
    one of the current before the normalisation; scale and shift have none. The sums over a sample are the same bits in
    whatever batch the sample comes.
    """
    steps, batch = to_spikes.shape[:2]
    if to_spikes.numel() == 0:
        zeros = to_spikes.new_zeros(batch, dtype=torch.float64) if sums else None
        return Gradients(torch.zeros_like(to_spikes[:1] if constant else to_spikes), zeros, zeros)
    if membrane is None or membrane.numel() == 0:
        if current is None:
            raise ModelContractError("A membrane that was not kept is made again from the current, which was not given.")
        current = dense(current)
        membrane = sequence_like(current, steps, torch.float32)
        _run_forward(current, steps, layer, "full", norm, None, membrane)
    out = torch.empty_like(membrane[:1] if constant else membrane, dtype=to_spikes.dtype)
    to_spikes = as_laid_out(to_spikes, membrane)
    if current is not None:
        current = as_laid_out(current, membrane[: len(current)])
    elif sums and layer.leaky:
        raise ModelContractError("The leak's gradient of a leaky gain needs the layer's input, which was not kept.")
    total = to_spikes[0].numel()
    size = total // batch if sums else total  # samples end where a sum over them is asked for, and nowhere else
    block = _block(size)
    blocks = triton.cdiv(size, block)
    partial = to_spikes.new_empty((2, batch, blocks) if sums else (2, 0), dtype=torch.float64)
    scale, shift, channels, inner = _channels(to_spikes, norm)
    with torch.cuda.device_of(to_spikes):
        _backward[(batch * blocks if sums else blocks,)](
            current[-1] if current is not None else to_spikes,  # read only for the sums of a leaky gain
            scale, shift, membrane[-1], to_spikes[-1], out[-1], *partial, total, size, steps, channels, inner,
            *map(float, (layer.leak, layer.threshold, layer.gain, layer.initial, width)),
            HARD=layer.hard, STRICT=layer.strict, DETACH=layer.detach, LEAKY=layer.leaky, CONSTANT=constant,
            AFFINE=norm is not None, SUMS=sums, HALF=membrane.dtype == torch.bfloat16, KIND=surrogate, BLOCK=block,
            enable_fp_fusion=False,
        )  # fmt: skip
    return Gradients(out, *partial.sum(2)) if sums else Gradients(out, None, None)


def _run_forward(
    current: Tensor, steps: int, layer: Layer, keep: Keep, norm: Affine | None, spikes: Tensor | None, membrane: Tensor
) -> None:
    if current.dtype not in DTYPES:
        raise ConfigError(f"Expected a current of float32, float16 or bfloat16 for the Triton kernels, got {current.dtype}.")
    total = current[0].numel()
    if total == 0:
        return
    scale, shift, channels, inner = _channels(current, norm)
    block = _block(total)
    with torch.cuda.device_of(current):
        _forward[(triton.cdiv(total, block),)](
            current, scale, shift, spikes if spikes is not None else current, membrane, total, steps, channels, inner,
            *map(float, (layer.leak, layer.threshold, layer.gain, layer.initial)),
            HARD=layer.hard, STRICT=layer.strict, CONSTANT=len(current) < steps, AFFINE=norm is not None,
            SPIKES=spikes is not None, KEEP=keep, BLOCK=block, enable_fp_fusion=False,
        )  # fmt: skip


def _block(size: int) -> int:
    return max(128, min(_BLOCK, int(triton.next_power_of_2(size))))


def _channels(sequence: Tensor, norm: Affine | None) -> tuple[Tensor, Tensor, int, int]:
    """Scale and shift, the number of channels, and how many neurons lie in memory before the next channel."""
    if norm is None:
        return sequence, sequence, 1, 1
    if sequence.dim() < 3 or not len(norm.scale) == len(norm.shift) == sequence.shape[2]:
        raise ConfigError(f"Expected a current [T, B, {len(norm.scale)}, ...] for the normalisation, got {list(sequence.shape)}.")
    scale, shift = (part.to(sequence.device, torch.float32).contiguous() for part in norm)
    return scale, shift, sequence.shape[2], sequence[0, 0, 0].numel() if sequence.is_contiguous() else 1
