"""Batch normalisation and the neurons after it, in training, as one autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trustsnn.kernels import accelerated, norm
from trustsnn.neurons.estimator import STBP
from trustsnn.neurons.functional import layer_of
from trustsnn.neurons.lif import SpikingNeuron


class _NormalisedFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, leak: Tensor, threshold: Tensor, found: norm.Statistics,
        before: Tensor | None, steps: int, given: int, neuron: SpikingNeuron, resumable: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        layer = layer_of(leak, threshold, neuron.dynamics)
        ctx.save_for_backward(x, gamma, before)
        ctx.settings = (found, given, layer, neuron.estimator)
        spikes, after = norm.forward(x, steps, given, layer, found.scale, found.shift, before, resumable=resumable)
        ctx.mark_non_differentiable(after)
        ctx.set_materialize_grads(False)
        return spikes, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 11
        x, gamma, before = ctx.saved_tensors
        found, given, layer, estimator = ctx.settings
        learn = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        to = norm.backward(
            x, gradients[0], given, layer, found, gamma,
            estimator.surrogate.name, estimator.surrogate.width, before, sums=learn,
        )  # fmt: skip
        return to.x, to.gamma, to.beta, to.leak, to.threshold, *[None] * 6


def can_normalise(layer: object, neuron: object) -> bool:
    """Whether `normalised_fire` computes these two layers: affine batch normalisation in training, then neurons that learn
    through a surrogate without a leaky gain."""
    if not (isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and type(neuron) is SpikingNeuron):
        return False  # a subclass may compute something else
    plain = layer.training and layer.affine and layer.track_running_stats and layer.momentum is not None
    return plain and type(neuron.estimator) is STBP and neuron.dynamics.gain == "unit" and torch.is_grad_enabled()


def normalised_fire(layer: nn.BatchNorm1d | nn.BatchNorm2d, neuron: SpikingNeuron, x: Tensor, steps: int, given: int) -> Tensor:
    """Spikes [steps * B, C, ...] of `neuron` behind `layer` for `x` [given * B, C, ...], given = 1 for a constant current; the
    layer's running statistics move as in `layer(x)`.

    Nothing but `x` is kept for the backward pass, which makes the membranes again.
    """
    if not _fast(x):
        return neuron.fire(layer(x).unflatten(0, (given, -1)), steps).flatten(0, 1)
    return _run(layer, neuron, x, steps, given, None, resumable=False)[0]


def normalised_resume(
    layer: nn.BatchNorm1d | nn.BatchNorm2d, neuron: SpikingNeuron, x: Tensor, steps: int, given: int, before: Tensor | None,
    more: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `normalised_fire`, for further steps: see `SpikingNeuron.resume`. Spikes [steps * B, C, ...], and the membrane [B, C, ...] that
    they leave; it may be empty where there are no `more` steps."""
    if not _fast(x):
        spikes, after = neuron.resume(normalised(layer, x).unflatten(0, (given, -1)), steps, before)
        return spikes.flatten(0, 1), after
    return _run(layer, neuron, x, steps, given, before, resumable=more)


def _run(
    layer: nn.BatchNorm1d | nn.BatchNorm2d, neuron: SpikingNeuron, x: Tensor, steps: int, given: int, before: Tensor | None,
    *, resumable: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    found = _statistics(layer, x)
    leak, threshold = neuron.parameters_in_bounds()
    before = before.contiguous(memory_format=norm.memory_format(x)) if before is not None else None
    return _NormalisedFire.apply(  # type: ignore[no-untyped-call,no-any-return]
        x, layer.weight, layer.bias, leak, threshold, found, before, steps, given, neuron, resumable
    )


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, found: norm.Statistics) -> Tensor:
        ctx.save_for_backward(x, gamma)
        ctx.found = found
        scale, shift = (each.view(-1, *[1] * (x.dim() - 2)) for each in (found.scale, found.shift))
        return torch.addcmul(shift, x, scale, out=torch.empty_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma = ctx.saved_tensors
        to = norm.backward_alone(x, gradients[0], ctx.found, gamma)
        return to.x, to.gamma, to.beta, None


def normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """`layer(x)` for a layer that `can_normalise` takes, where its neurons do not run as one with it; torch's own backward pass is
    several times slower on channels side by side."""
    if not _fast(x):
        return layer(x)  # type: ignore[no-any-return]
    found: Tensor = _Normalised.apply(x, layer.weight, layer.bias, _statistics(layer, x))  # type: ignore[no-untyped-call]
    return found


def _fast(x: Tensor) -> bool:
    return accelerated(x) == "native" and norm.fits(x.detach()) and x.numel() // x.shape[1] > 1


def _statistics(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> norm.Statistics:
    """Those of the batch; the layer's running statistics move."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    return norm.statistics(x, layer.weight, layer.bias, layer.eps, layer.running_mean, layer.running_var, layer.momentum or 0.0)
