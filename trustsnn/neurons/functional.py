"""The spiking layer over a whole sequence as one autograd function, whose backward is the gradient estimator's."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from trustsnn.errors import ModelContractError
from trustsnn.kernels import accelerated, lif
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.estimator import STBP, GradientEstimator, LayerRecord, cache_sized, over_time
from trustsnn.neurons.operation import Gradient, Operation

Arguments = tuple[Any, ...]


class _Fire(Operation):
    @staticmethod
    def forward(
        current: Tensor, leak: Tensor, threshold: Tensor, steps: int, dynamics: Dynamics, estimator: GradientEstimator, keep: Keep
    ) -> tuple[Tensor, Tensor]:
        if accelerated(current) is None:
            return _forward(current, steps, float(leak), float(threshold), dynamics)
        return lif.forward(current, steps, layer_of(leak, threshold, dynamics), keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: Arguments, output: tuple[Tensor, Tensor]) -> None:
        current, leak, threshold, steps, dynamics, estimator, _ = inputs
        membrane = output[1]
        parameters = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        needed = estimator.needs_current or membrane.numel() == 0 or (parameters and dynamics.gain == "leaky")
        ctx.save_for_backward(membrane, leak, threshold, current if needed else None)
        ctx.settings = (steps, len(current), dynamics, estimator)
        ctx.mark_non_differentiable(membrane)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 7
        membrane, leak, threshold, current = ctx.saved_tensors
        parameters = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        found = FireBackward.apply(gradients[0], membrane, leak, threshold, current, *ctx.settings, parameters)
        to_current, to_leak, to_threshold = found
        needs = ctx.needs_input_grad
        return to_current, to_leak if needs[1] else None, to_threshold if needs[2] else None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Arguments, *arguments: Any) -> tuple[Any, Any]:
        return _over_samples(_Fire.apply, info.batch_size, in_dims, arguments, sequences=(0,), results=2)


class FireBackward(Gradient):
    """The gradients of `_Fire` with respect to current, leak and threshold."""

    @staticmethod
    def forward(
        to_spikes: Tensor,
        membrane: Tensor,
        leak: Tensor,
        threshold: Tensor,
        current: Tensor | None,
        steps: int,
        given: int,
        dynamics: Dynamics,
        estimator: GradientEstimator,
        parameters: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        layer = layer_of(leak, threshold, dynamics)
        kept = membrane if membrane.numel() or not to_spikes.numel() else None
        if type(estimator) is STBP and accelerated(to_spikes) is not None:
            surrogate = estimator.surrogate
            found = lif.backward(
                current, kept, to_spikes, layer, surrogate.name, surrogate.width, constant=given < steps, sums=parameters
            )
            to_current = found.current
            sums = [s.sum() if s is not None else to_spikes.new_zeros(()) for s in (found.leak, found.threshold)]
        else:
            whole = _membrane(kept, current, steps, leak, threshold, dynamics)
            sequence = current.expand(steps, *current.shape[1:]) if current is not None else None
            record = LayerRecord(whole, sequence, leak, threshold, dynamics)
            result = estimator.backward(record, to_spikes, parameters)
            to_current = over_time(result.current).unsqueeze(0) if given < steps else result.current
            sums = [s if s is not None else to_spikes.new_zeros(()) for s in (result.leak, result.threshold)]
        return to_current, sums[0].to(leak.dtype), sums[1].to(threshold.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Arguments, *arguments: Any) -> tuple[Any, Any]:
        parameters = arguments[-1]
        sequences = () if parameters else (0, 1, 4)  # the sums over samples belong to each by itself
        return _over_samples(FireBackward.apply, info.batch_size, in_dims, arguments, sequences=sequences, results=1)


def _over_samples(
    function: Callable[..., Any], size: int, in_dims: Arguments, arguments: Arguments, *, sequences: tuple[int, ...], results: int
) -> tuple[Any, Any]:
    """A function of [T, B, ...] sequences over one more dimension: all at once, as further samples, where only the
    `sequences` among its arguments have that dimension (its first `results` results then have it too), and one after the
    other where not."""
    mapped = [place for place, dim in enumerate(in_dims) if dim is not None]
    if sequences and set(mapped) <= set(sequences):
        folded = list(arguments)
        for place in sequences:
            value = arguments[place]
            if isinstance(value, Tensor) and value.numel():
                dim = in_dims[place]
                value = value.movedim(dim, 1) if dim is not None else value.unsqueeze(1).expand(-1, size, *value.shape[1:])
                folded[place] = value.flatten(1, 2)
            elif isinstance(value, Tensor) and in_dims[place] is not None:
                folded[place] = value.select(in_dims[place], 0)
        found = function(*folded)
        parts = [r.unflatten(1, (size, -1)) if k < results and r.numel() else r for k, r in enumerate(found)]
        dims = tuple(1 if k < results and r.numel() else None for k, r in enumerate(found))
        return tuple(parts), dims
    each = []
    for index in range(size):
        each.append(function(*(v if d is None else v.select(d, index) for v, d in zip(arguments, in_dims, strict=True))))
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0,) * len(each[0])


_numbers: MutableMapping[Tensor, tuple[int, float]] = WeakTensorKeyDictionary()


def _number(scalar: Tensor) -> float:
    """The value of a scalar tensor. That of a buffer on a GPU is remembered, because reading it stops the device."""
    if scalar.is_cpu or scalar.requires_grad:
        return float(scalar)
    known = _numbers.get(scalar)
    if known is None or known[0] != scalar._version:
        known = _numbers[scalar] = (scalar._version, float(scalar))
    return known[1]


def layer_of(leak: Tensor, threshold: Tensor, dynamics: Dynamics) -> lif.Layer:
    """The numbers of a layer as its kernels take them."""
    low, high = np.float32(_number(leak)), np.float32(_number(threshold))
    leaky = dynamics.gain == "leaky"
    return lif.Layer(
        leak=float(low),
        threshold=float(high),
        gain=float(np.float32(1) - low) if leaky else 1.0,
        initial=float(np.float32(dynamics.initial) * high),
        hard=dynamics.reset == "hard",
        strict=dynamics.comparator == ">",
        detach=dynamics.detach_reset,
        leaky=leaky,
    )


def _forward(current: Tensor, steps: int, leak: float, threshold: float, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """Spikes and membranes in torch, a cache-sized part of the batch at a time."""
    gain = 1 - leak if dynamics.gain == "leaky" else 1.0
    membrane = lif.sequence_like(current, steps)
    spikes = torch.empty_like(membrane)
    current = current.expand(steps, *current.shape[1:])
    compare = torch.gt if dynamics.comparator == ">" else torch.ge
    for rows in cache_sized(current):
        after = torch.full_like(current[0, rows], dynamics.initial * threshold)
        parts = (whole[:, rows].unbind(0) for whole in (current, membrane, spikes))
        for x, u, s in zip(*parts, strict=True):
            torch.mul(after, leak, out=u)
            u += x if gain == 1 else x * gain
            compare(u, threshold, out=s)
            after = torch.addcmul(u, u, s, value=-1) if dynamics.reset == "hard" else torch.sub(u, s, alpha=threshold)
    return spikes, membrane


def _membrane(
    kept: Tensor | None, current: Tensor | None, steps: int, leak: Tensor, threshold: Tensor, dynamics: Dynamics
) -> Tensor:
    """The membrane before each spike from whatever was kept of it."""
    if kept is None:
        if current is None:
            raise ModelContractError("A membrane that was not kept is made again from the current, which was not kept either.")
        return _forward(current, steps, float(leak), float(threshold), dynamics)[1]
    return kept.float() + threshold if kept.dtype == torch.bfloat16 else kept


def fire(
    current: Tensor,
    leak: Tensor,
    threshold: Tensor,
    dynamics: Dynamics,
    estimator: GradientEstimator,
    *,
    steps: int | None = None,
    keep: Keep = "full",
) -> tuple[Tensor, Tensor]:
    """Spikes and membranes of a layer of neurons (see `Dynamics`), differentiable through `estimator`.

    Args:
        current: input current, [T, B, ...], floating point; or [1, B, ...] for a current that is the same at all `steps`.
        leak, threshold: scalar tensors; the gradient reaches them when they require one.
        keep: what the backward pass reads: "full" (the membrane), "half" (its distance to the threshold in bfloat16),
            "recompute" (the current, from which it makes the membrane again), or "nothing" (no backward pass follows).

    Returns:
        spikes in {0, 1}, [steps, B, ...], and what was kept: with "full" the membrane u before the spike, of the same shape;
        with "half" u - threshold in bfloat16 where the kernel in use has it, else u; otherwise nothing or u. It carries no
        gradient. `torch.func` transforms (vmap, grad, and so per-sample gradients) work.
    """
    steps = len(current) if steps is None else steps
    if steps != len(current) and len(current) != 1:
        raise ModelContractError(f"Expected a current of 1 or {steps} steps, got {len(current)}.")
    spikes, membrane = _Fire.apply(current, leak, threshold, steps, dynamics, estimator, keep)
    return spikes, membrane
