"""The plain, obvious implementation of a spiking layer: a loop over time that autograd differentiates.

It is slow and meant to be read. Tests hold every faster path to it, forward and backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.surrogates import Surrogate


class _Spike(torch.autograd.Function):
    """1[d >= 0] or 1[d > 0] forward, the surrogate derivative backward."""

    @staticmethod
    def forward(ctx, distance: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.surrogate = surrogate
        ctx.save_for_backward(distance)
        return (distance > 0 if strict else distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (distance,) = ctx.saved_tensors
        return gradient * ctx.surrogate.derivative(distance), None, None


def reference_forward(
    current: Tensor, leak: Tensor, threshold: Tensor, dynamics: Dynamics, surrogate: Surrogate
) -> tuple[Tensor, Tensor]:
    """Spikes and membranes before the spike of a layer over a whole sequence.

    Args:
        current: input current, shape [T, B, ...].
        leak: scalar tensor in [0, 1].
        threshold: positive scalar tensor.

    Returns:
        spikes in {0, 1} and membrane u, both of the shape and dtype of `current`.
    """
    gain = 1 - leak if dynamics.gain == "leaky" else 1.0
    membrane = torch.zeros_like(current[0]) + dynamics.initial * threshold
    spikes, membranes = [], []
    for t in range(len(current)):
        before = leak * membrane + gain * current[t]
        spike = _Spike.apply(before - threshold, surrogate, dynamics.comparator == ">")  # type: ignore[no-untyped-call]
        reset = spike.detach() if dynamics.detach_reset else spike
        membrane = before * (1 - reset) if dynamics.reset == "hard" else before - reset * threshold
        spikes.append(spike)
        membranes.append(before)
    return torch.stack(spikes), torch.stack(membranes)
