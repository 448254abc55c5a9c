"""Spikes of layers whose recursion autograd differentiates step by step, while a gradient estimator differentiates the spike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trustsnn.neurons.estimator import GradientEstimator, LayerRecord
from trustsnn.neurons.lif import SpikingNeuron


class Derivatives:
    """The spike's derivative in all steps, asked of the estimator once, in the first backward step.

    To the estimator they are steps of neurons without leak: what it makes of a gradient of 1 is then the derivative alone, and the
    recursion is left to autograd.
    """

    def __init__(self, neuron: SpikingNeuron, current: Tensor, threshold: Tensor) -> None:
        self.estimator: GradientEstimator = neuron.estimator
        self.dynamics = neuron.dynamics
        self.current, self.threshold = current.detach(), threshold.detach()
        self.distances: list[Tensor] = []
        self.found: Tensor | None = None

    def at(self, step: int) -> Tensor:
        """The derivative in one step, [B, ...]."""
        if self.found is None:
            membrane = torch.stack(self.distances) + self.threshold
            record = LayerRecord(membrane, self.current, torch.zeros_like(self.threshold), self.threshold, self.dynamics)
            self.found = self.estimator.backward(record, torch.ones_like(membrane), False).current
        return self.found[step]


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor, derivatives: Derivatives) -> Tensor:
        ctx.derivatives, ctx.step = derivatives, len(derivatives.distances)
        derivatives.distances.append(distance.detach())
        compare = torch.gt if derivatives.dynamics.comparator == ">" else torch.ge
        return compare(distance, 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.derivatives.at(ctx.step), None


def spike(distance: Tensor, derivatives: Derivatives) -> Tensor:
    """The spikes of the next step, 1[d >= 0] (or >) for the distance d = u - V [B, ...]; backward with the estimator's factor."""
    spikes: Tensor = _Spike.apply(distance, derivatives)  # type: ignore[no-untyped-call]
    return spikes
