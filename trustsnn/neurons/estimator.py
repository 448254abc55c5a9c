"""The gradient contract: a neuron asks one object, the gradient estimator, for its backward pass.

How a spike is differentiated is a parameter of the attack, not a property of the model. A model trains with its own
surrogate; an attack runs `with estimator.applied(model):` and every neuron of the model, and of no other model, then
differentiates its spikes that way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.surrogates import Surrogate


class LayerRecord(NamedTuple):
    """What a neuron layer did in one forward pass: all that an estimator may need."""

    membrane: Tensor  # u before the spike, [T, B, ...]
    current: Tensor | None  # input x, [T, B, ...]; kept only where the backward needs it
    leak: Tensor  # scalar
    threshold: Tensor  # scalar
    dynamics: Dynamics


class LayerGradients(NamedTuple):
    """Gradients of the loss with respect to a layer's input current [T, B, ...], leak and threshold (scalars)."""

    current: Tensor
    leak: Tensor | None
    threshold: Tensor | None


class GradientEstimator:
    """Base of every estimator. A subclass defines `backward`; it may be stateless or keep statistics of its own."""

    needs_current = False

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        """Turn dLoss/dspikes [T, B, ...] into dLoss/dcurrent, and dLoss/d(leak, threshold) if `parameters`."""
        raise TypeError(f"{type(self).__name__} does not define how it differentiates a spike.")

    def describe(self) -> dict[str, object]:
        """Name and settings, for the key of a cell."""
        raise TypeError(f"{type(self).__name__} does not describe itself.")

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside this block every spiking neuron of `model` differentiates with this estimator."""
        from trustsnn.neurons.lif import SpikingNeuron

        neurons = [module for module in model.modules() if isinstance(module, SpikingNeuron)]
        before = [neuron.estimator for neuron in neurons]
        try:
            for neuron in neurons:
                neuron.estimator = self
            yield
        finally:
            for neuron, estimator in zip(neurons, before, strict=True):
                neuron.estimator = estimator


@dataclass(frozen=True)
class STBP(GradientEstimator):
    """Backpropagation through space and time with a surrogate (Wu 2018): the exact chain rule of the dynamics, but for
    the spike, whose derivative is the surrogate's."""

    surrogate: Surrogate = field(default_factory=Surrogate)

    def describe(self) -> dict[str, object]:
        return {"name": "stbp", "surrogate": self.surrogate.name, "width": self.surrogate.width}

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        dynamics = record.dynamics
        leak, threshold = float(record.leak), float(record.threshold)
        gain = 1 - leak if dynamics.gain == "leaky" else 1.0
        hard, detached = dynamics.reset == "hard", dynamics.detach_reset
        strict = dynamics.comparator == ">"
        initial = dynamics.initial * threshold
        membranes = record.membrane.unbind(0)
        currents = record.current.unbind(0) if record.current is not None else None
        if parameters and gain != 1 and currents is None:
            raise ModelContractError("The leak's gradient of a leaky gain needs the layer's input, which was not kept.")
        gradient = torch.empty_like(spike_gradient)
        carried: Tensor | None = None  # dLoss/dv_t, v after the reset
        leak_sum = threshold_sum = 0.0
        for t in reversed(range(len(membranes))):
            u = membranes[t]
            distance = u - threshold
            spike = distance > 0 if strict else distance >= 0
            to_spike = spike_gradient[t]
            if carried is not None and not detached:
                to_spike = torch.addcmul(to_spike, carried, u, value=-1) if hard else to_spike - threshold * carried
            through_spike = to_spike * self.surrogate.derivative(distance)
            if carried is None:
                to_membrane = through_spike
            else:
                to_membrane = through_spike + (carried.masked_fill(spike, 0) if hard else carried)
            torch.mul(to_membrane, gain, out=gradient[t])
            if parameters:
                threshold_sum = threshold_sum - through_spike.sum()
                if carried is not None and not hard:
                    threshold_sum = threshold_sum - (carried * spike).sum()
                if t > 0:
                    fired = membranes[t - 1] > threshold if strict else membranes[t - 1] >= threshold
                    previous = (
                        membranes[t - 1].masked_fill(fired, 0) if hard else membranes[t - 1] - fired.to(u.dtype) * threshold
                    )
                    leak_sum = leak_sum + (to_membrane * previous).sum()
                else:
                    leak_sum = leak_sum + to_membrane.sum() * initial
                    threshold_sum = threshold_sum + to_membrane.sum() * leak * dynamics.initial
                if currents is not None and dynamics.gain == "leaky":
                    leak_sum = leak_sum - (to_membrane * currents[t]).sum()
            carried = to_membrane * leak
        if not parameters:
            return LayerGradients(gradient, None, None)
        return LayerGradients(gradient, torch.as_tensor(leak_sum), torch.as_tensor(threshold_sum))
