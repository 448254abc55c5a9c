"""Spike-timing-dependent backpropagation: the derivative of a spike by the time since the neuron's last one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustsnn.errors import ConfigError
from trustsnn.neurons.estimator import GradientEstimator, LayerGradients, LayerRecord, through_time

_NEVER = -1000  # the step of the last spike of a neuron that has not fired yet, as published


@dataclass(frozen=True)
class STDB(GradientEstimator):
    """The exact chain rule of the dynamics, but for the spike at step t = 0, 1, ..., whose derivative is alpha exp(-beta dt): dt is t
    less the step of the neuron's last spike before t, which is -1000 for one that has not fired yet (Rathi ICLR 2020).

    So a neuron learns from the steps after its first spike. `alpha` > 0, `beta` >= 0.
    """

    alpha: float = 0.3
    beta: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.alpha < math.inf and 0 <= self.beta < math.inf):
            raise ConfigError(f"Expected alpha above 0 and beta of at least 0, got {self.alpha} and {self.beta}.")

    def describe(self) -> dict[str, object]:
        return {"name": "stdb", "alpha": self.alpha, "beta": self.beta}

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        factors = self.derivatives(record.fired(), record.membrane.dtype)
        return through_time(record, spike_gradient, parameters, lambda distance, t, rows: factors[t, rows].clone())

    def derivatives(self, fired: Tensor, dtype: torch.dtype) -> Tensor:
        """The derivative of each spike, [T, B, ...], for the spikes `fired` (boolean)."""
        since = torch.empty(fired.shape, dtype=dtype, device=fired.device)
        last = torch.full(fired.shape[1:], float(_NEVER), dtype=dtype, device=fired.device)
        for t, spikes in enumerate(fired.unbind(0)):
            torch.sub(t, last, out=since[t])
            last.masked_fill_(spikes, float(t))
        return since.mul_(-self.beta).exp_().mul_(self.alpha)
