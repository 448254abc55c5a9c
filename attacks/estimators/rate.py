"""Estimators that read a spike train as a rate: no recursion through time, no surrogate tied to a time step's reset.

None of them has gradients for leak and threshold: where those need one, it is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustsnn.attacks.estimators.settings import check_between
from trustsnn.errors import ModelContractError
from trustsnn.neurons import GradientEstimator, LayerGradients, LayerRecord, Surrogate
from trustsnn.neurons.estimator import over_time


@dataclass(frozen=True)
class BPTR(GradientEstimator):
    """Backward pass through rate (Ding 2022, SNN-RAT): g_x(t) = g_s(t) 1[the neuron fired at some step], the slope of a
    ReLU over the rate."""

    def describe(self) -> dict[str, object]:
        return {"name": "bptr"}

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        factor = record.fired().any(0).to(spike_gradient.dtype) * record.gain()
        return LayerGradients(spike_gradient * factor, None, None)


@dataclass(frozen=True)
class RGA(GradientEstimator):
    """Rate gradient approximation (Bu, CVPR 2023): g_x(t) = g_s(t) f(xbar), with f the slope of a piecewise linear curve of
    the rate over the mean current xbar over time.

    For threshold 1 and leak tau: f = gamma on 0 <= xbar <= 1 - tau, (1 - gamma + gamma tau) / (1 + tau) on
    1 - tau < xbar <= 2, and 0 elsewhere. For a threshold V the curve is stretched: f(xbar / V) / V. With a leaky gain xbar is
    the driven current.
    """

    gamma: float = 0.2

    def __post_init__(self) -> None:
        check_between("gamma, the slope below the firing current,", self.gamma, 0, 1)

    @property
    def needs_current(self) -> bool:
        return True

    def describe(self) -> dict[str, object]:
        return {"name": "rga", "gamma": self.gamma}

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        if record.current is None:
            raise ModelContractError("RGA needs the layer's input current, which was not kept.")
        leak, threshold, gain = float(record.leak), float(record.threshold), record.gain()
        mean = over_time(record.current) * (gain / (threshold * len(record.current)))
        slope = (1 - self.gamma + self.gamma * leak) / (1 + leak)
        below = (mean >= 0) & (mean <= 1 - leak)
        above = (mean > 1 - leak) & (mean <= 2)
        factor = below.to(mean.dtype) * self.gamma + above.to(mean.dtype) * slope
        return LayerGradients(spike_gradient * (factor * (gain / threshold)), None, None)


@dataclass(frozen=True)
class HART(GradientEstimator):
    """Hybrid adversarial attack by rate and time (Hao, ICLR 2024): g_x(t) = mean over t' of g_s(t') SG(u_t' - V), the same
    at every step, with the triangular surrogate max(0, gamma - |d|) / gamma^2.

    gamma moves it between the rate (large) and the times (small). Choose it on samples that are not evaluated.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_between("gamma, the surrogate's half width,", self.gamma, 1e-3, 1e3)

    def describe(self) -> dict[str, object]:
        return {"name": "hart", "gamma": self.gamma}

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        surrogate, threshold = Surrogate("triangular", self.gamma), float(record.threshold)
        total = torch.zeros_like(spike_gradient[0])
        for u, to_spike in zip(record.membrane, spike_gradient, strict=True):
            total.addcmul_(surrogate.derivative(u - threshold), to_spike)
        return LayerGradients((total * (record.gain() / len(spike_gradient))).expand_as(spike_gradient), None, None)
