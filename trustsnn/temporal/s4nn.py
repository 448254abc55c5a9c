"""S4NN: integrate-and-fire neurons with at most one spike, and the first output to spike is the class.

Kheradpisheh and Masquelier, "Temporal backpropagation for spiking neural networks with one spike per neuron", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models.flow import SPIKES, Flow
from trustsnn.models.spec import ModelSpec, Trace
from trustsnn.rng import stream
from trustsnn.temporal.events import drawn, in_order, latency_times, padded


class _FirstSpike(torch.autograd.Function):
    """A membrane V(t) that sums the weights of all inputs with t_i <= t; the spike comes one step after V > threshold.

    Backward, as in the paper: dt/dV = -1 and dV/dt_i = -w_i for inputs before the spike, whether the neuron spiked in time or not.
    """

    @staticmethod
    def forward(ctx: Any, times: Tensor, weight: Tensor, threshold: float, last: int) -> tuple[Tensor, Tensor]:
        volley = in_order(times.detach(), last)
        rows = padded(weight)
        potential = weight.new_zeros(len(times), weight.shape[1])
        spikes = torch.full_like(potential, last)
        for neuron, time, closes in zip(*volley, strict=True):
            waits = spikes == last
            potential = torch.where(waits, potential + rows[neuron], potential)
            crosses = closes[:, None] & waits & (potential > threshold)
            spikes = torch.where(crosses, time[:, None] + 1, spikes)
        ctx.save_for_backward(times, weight, spikes, *volley[:2])
        ctx.mark_non_differentiable(potential)
        return spikes, potential

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        times, weight, spikes, neurons, moments = ctx.saved_tensors
        gradient = gradients[0]
        rows = padded(weight)
        to_times = times.new_zeros(len(times), len(rows)) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(rows) if ctx.needs_input_grad[1] else None
        for neuron, time in zip(neurons, moments, strict=True):
            causal = gradient * (time[:, None] < spikes)
            if to_times is not None:
                to_times.scatter_(1, neuron[:, None], (causal * rows[neuron]).sum(1, keepdim=True))
            if to_weight is not None:
                to_weight.index_add_(0, neuron, causal, alpha=-1)
        return (
            to_times[:, :-1] if to_times is not None else None,
            to_weight[:-1] if to_weight is not None else None,
            None,
            None,
        )


def first_spikes(times: Tensor, weight: Tensor, threshold: float, last: int) -> tuple[Tensor, Tensor]:
    """Spike times [B, J] of J neurons for input times [B, I] and weights [I, J], and their membranes [B, J] at the spike.

    Times are whole steps; `last` stands for no spike in time, and such a neuron's membrane is that of the end. A neuron that has
    spiked does not spike again. Gradients of the spike times reach weights and input times.
    """
    spikes, membrane = _FirstSpike.apply(times, weight, threshold, last)  # type: ignore[no-untyped-call]
    return spikes, membrane


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        norm = gradients[0].norm(dim=1, keepdim=True)
        return gradients[0] / torch.where(norm > 0, norm, 1.0)


def unit_gradient(x: Tensor) -> Tensor:
    """`x` [B, J]; backward, each sample's gradient divided by its Euclidean norm."""
    result: Tensor = _Unit.apply(x)  # type: ignore[no-untyped-call]
    return result


class S4NN(nn.Module):
    """Latency-coded inputs, one hidden layer, one output neuron a class, all without leak and with one spike at most.

    `forward(x)` gives logits [B, K]: the steps from a neuron's spike to the end, plus a value in (0, 1) that grows with its membrane at
    the spike. So the first to spike has the largest; of those that spike in the same step, or if none does, it is the one with the
    highest membrane.

    In training mode the gradient of each sample is divided by its norm at the output and at the hidden layer, as in the paper. With
    respect to the input, the gradient goes through the latency code straight; inputs that come after a neuron's spike have none.

    Args:
        input_shape, classes: of the images, (C, H, W), and the labels.
        hidden: neurons of the hidden layer.
        last: t_max; inputs are coded in 0..last, and `last` itself is too late. The network takes last + 1 steps.
        threshold: of every neuron.
        spread: weights are drawn uniformly from 0 to these, hidden layer and output layer.
        seed: of the weights.
    """

    independent = True  # every sum runs over one sample, in the order of its spikes

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        *,
        hidden: int = 400,
        last: int = 256,
        threshold: float = 100.0,
        spread: tuple[float, float] = (5.0, 48.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (hidden >= 1 and last >= 2):
            raise ConfigError(f"Expected at least 1 hidden neuron and 2 steps, got hidden={hidden}, last={last}.")
        if not (isfinite(threshold) and threshold > 0):
            raise ConfigError(f"Expected a threshold above 0, got {threshold}: below it every neuron fires without an input.")
        self.spec = ModelSpec("image", tuple(input_shape), classes, last + 1, "latency", "first-spike", False)
        self.last = last
        self.threshold = threshold
        self.spread = spread
        self.architecture = {
            "name": "s4nn",
            "arguments": {
                "input_shape": list(input_shape), "classes": classes, "hidden": hidden, "last": last, "threshold": threshold,
                "spread": list(spread), "seed": seed,
            },
        }  # fmt: skip
        draws = stream(seed, "s4nn/weights")
        sizes = (prod(input_shape), hidden, classes)
        self.hidden, self.output = (
            nn.Parameter(drawn((i, j), draws.random) * top) for i, j, top in zip(sizes[:-1], sizes[1:], spread, strict=True)
        )

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K], in steps, of a batch [B, *spec.input_shape]."""
        _, spikes, membrane = self.spikes(x)
        return (self.last - spikes) + self._rank(membrane)

    def spikes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spike times of the hidden layer and of the outputs, 1..last, and the membranes of the outputs; [B, J], [B, K], [B, K]."""
        if tuple(x.shape[1:]) != self.spec.input_shape:
            raise ModelContractError(
                f"Expected a batch of shape [B, {', '.join(map(str, self.spec.input_shape))}], got {list(x.shape)}."
            )
        times = latency_times(x.flatten(1), self.last)
        hidden, _ = first_spikes(times, self.hidden, self.threshold, self.last)
        if self.training:
            hidden = unit_gradient(hidden)
        output, membrane = first_spikes(hidden, self.output, self.threshold, self.last)
        return hidden, unit_gradient(output) if self.training else output, membrane

    def inputs(self) -> dict[str, Flow]:
        """What each layer is fed with: spikes, of pixels and of the layer before."""
        return {"hidden": SPIKES, "output": SPIKES}

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """Per-step logits, whose mean is what `forward` gives, spikes of both layers, and the membranes of the outputs."""
        hidden, spikes, membrane = self.spikes(x)
        steps = torch.arange(self.spec.steps, device=x.device).view(-1, 1, 1)
        logits = self.spec.steps * (steps > spikes.detach()).to(spikes.dtype)
        logits[-1] += self.spec.steps * self._rank(membrane)
        counts = {"hidden": (hidden.detach() < self.last).to(x.dtype), "output": (spikes.detach() < self.last).to(x.dtype)}
        return Trace(logits, counts, self._membranes(hidden.detach()))

    def _rank(self, membrane: Tensor) -> Tensor:
        excess = (membrane - self.threshold) / self.threshold
        return 0.5 + 0.5 * excess / (1 + excess.abs())

    def _membranes(self, hidden: Tensor) -> Tensor:
        arrivals = self.output.new_zeros(self.spec.steps * len(hidden), self.spec.classes)
        place = hidden.long() * len(hidden) + torch.arange(len(hidden), device=hidden.device)[:, None]
        for neuron in range(hidden.shape[1]):
            arrivals.index_add_(0, place[:, neuron], self.output.detach()[neuron].expand(len(hidden), -1))
        arrivals = arrivals.view(self.spec.steps, len(hidden), -1)
        arrivals[-1] = 0  # too late
        return arrivals.cumsum(0)


def target_times(spikes: Tensor, y: Tensor, last: int, gamma: int) -> Tensor:
    """When each output should have spiked, [B, K], given when it did: the true class at the first spike, the others that come less
    than `gamma` steps after it at first + gamma. Without any spike the true class should come `gamma` before the end."""
    first = spikes.amin(1, keepdim=True)
    late = (first + gamma).clamp_max(last)
    targets = torch.where(spikes - first < gamma, late, spikes)
    true = torch.where(first < last, first, last - gamma)
    return targets.scatter(1, y[:, None], true)
