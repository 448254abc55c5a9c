"""The spiking layer over a whole sequence as one autograd function, whose backward is the gradient estimator's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.estimator import GradientEstimator, LayerRecord, cache_sized


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, leak: Tensor, threshold: Tensor, dynamics: Dynamics, estimator: GradientEstimator
    ) -> tuple[Tensor, Tensor]:
        leak_value, threshold_value = float(leak), float(threshold)
        gain = 1 - leak_value if dynamics.gain == "leaky" else 1.0
        membrane = torch.empty_like(current)
        spikes = torch.empty_like(current)
        compare = torch.gt if dynamics.comparator == ">" else torch.ge
        initial = dynamics.initial * threshold_value
        for rows in cache_sized(current):
            after = torch.full_like(current[0, rows], initial) if initial else None
            parts = (whole[:, rows].unbind(0) for whole in (current, membrane, spikes))
            for x, u, s in zip(*parts, strict=True):
                x = x if gain == 1 else x * gain
                if after is None:
                    u.copy_(x)
                else:
                    torch.add(x, after, alpha=leak_value, out=u)
                compare(u, threshold_value, out=s)
                hard = dynamics.reset == "hard"
                after = torch.addcmul(u, u, s, value=-1) if hard else torch.sub(u, s, alpha=threshold_value)
        keeps_current = estimator.needs_current or (
            (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]) and dynamics.gain == "leaky"
        )
        ctx.save_for_backward(membrane, leak, threshold, *([current] if keeps_current else []))
        ctx.dynamics, ctx.estimator = dynamics, estimator
        ctx.mark_non_differentiable(membrane)
        return spikes, membrane

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        membrane, leak, threshold, *current = ctx.saved_tensors
        record = LayerRecord(membrane, current[0] if current else None, leak, threshold, ctx.dynamics)
        parameters = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        result = ctx.estimator.backward(record, gradients[0], parameters)
        to_leak = result.leak.to(leak.dtype) if result.leak is not None and ctx.needs_input_grad[1] else None
        to_threshold = result.threshold.to(threshold.dtype) if result.threshold is not None and ctx.needs_input_grad[2] else None
        return result.current, to_leak, to_threshold, None, None


def fire(
    current: Tensor, leak: Tensor, threshold: Tensor, dynamics: Dynamics, estimator: GradientEstimator
) -> tuple[Tensor, Tensor]:
    """Spikes and membranes of a layer of neurons (see `Dynamics`), differentiable through `estimator`.

    Args:
        current: input current, [T, B, ...], floating point.
        leak, threshold: scalar tensors; the gradient reaches them when they require one.

    Returns:
        spikes in {0, 1} and membrane u before the spike, both shaped as `current`. The membrane carries no gradient.
    """
    spikes, membrane = _Fire.apply(current, leak, threshold, dynamics, estimator)  # type: ignore[no-untyped-call]
    return spikes, membrane
