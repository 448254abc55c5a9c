"""The spiking layer as a module: it holds the (learnable) leak and threshold, and no state between forwards."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.estimator import STBP, GradientEstimator
from trustsnn.neurons.functional import fire
from trustsnn.neurons.surrogates import Surrogate


def _held(parameter: Tensor, low: float, high: float) -> Tensor:
    """`parameter` clamped to [low, high], with the gradient of the identity, so that a bound is never a trap."""
    number = parameter.dim() == 0 and parameter.is_cpu
    if number and not torch._C._functorch.is_functorch_wrapped_tensor(parameter) and low <= parameter.item() <= high:
        return parameter  # what the sum is, without its operations
    return parameter + (parameter.clamp(low, high) - parameter).detach()


def _with_first(current: Tensor, first: Tensor, steps: int) -> Tensor:
    """`current` [steps, B, ...], or [1, B, ...] for all of them, with `first` [B, ...] at the first step, in the same memory order."""
    rest = current[1:] if len(current) == steps else current.expand(steps - 1, *current.shape[1:])
    parts = [first[None], rest] if steps > 1 else [first[None]]
    if current.dim() == 5 and not current.is_contiguous():  # channels last
        return torch.cat([part.movedim(2, -1) for part in parts]).movedim(-1, 2)
    return torch.cat(parts)


class SpikingNeuron(nn.Module):
    """A layer of LIF neurons (IF with leak = 1) over whole sequences: current [T, B, ...] -> spikes [T, B, ...].

    Every forward starts from V0. `learn` makes leak and threshold parameters of the layer (DIET-SNN, Rathi 2020).
    `estimator` decides the backward pass: the model's own surrogate in training, the attack's in an attack. `keep` is what
    that pass reads, see `fire`: "full", "half" for two thirds of the memory and a gradient good to .3 %, or "recompute".

    >>> neuron = SpikingNeuron(Dynamics(leak=0.5, threshold=1.0))
    >>> neuron(torch.full((4, 1, 1), 0.6)).flatten().tolist()
    [0.0, 0.0, 1.0, 0.0]
    """

    binary: ClassVar[bool] = True  # what it gives is 0 and 1; an ANN's activations in its place are not
    leak: Tensor
    threshold: Tensor

    def __init__(self, dynamics: Dynamics | None = None, surrogate: Surrogate | None = None, *, learn: bool = False) -> None:
        super().__init__()
        self.dynamics = dynamics or Dynamics()
        self.estimator: GradientEstimator = STBP(surrogate or Surrogate())
        self.keep: Keep = "full"
        leak, threshold = torch.tensor(self.dynamics.leak), torch.tensor(self.dynamics.threshold)
        if learn:
            self.leak, self.threshold = nn.Parameter(leak), nn.Parameter(threshold)
        else:
            self.register_buffer("leak", leak)
            self.register_buffer("threshold", threshold)

    def forward(self, current: Tensor) -> Tensor:
        """Spikes of the layer, [T, B, ...] in {0, 1}."""
        return self.fire(current)

    def fire(self, current: Tensor, steps: int | None = None) -> Tensor:
        """As `forward`; a current [1, B, ...] stands for the same one at each of `steps`."""
        needed = torch.is_grad_enabled() and (current.requires_grad or self.leak.requires_grad or self.threshold.requires_grad)
        return self._run(current, steps, self.keep if needed else "nothing")[0]

    def unroll(self, current: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Spikes and the membrane before the spike, both [T, B, ...]."""
        return self._run(current, steps, "full")

    def resume(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Spikes [steps, B, ...] of further steps, and the membrane [B, ...] that they leave, which carries no gradient.

        `before` is the membrane that the steps before them left, None where these are the first ones. The steps of a sequence one part
        after the other give the same spikes as all at once.
        """
        if before is None:
            spikes, membrane = self._run(current, steps, "full")
        else:
            leak, threshold = self.parameters_in_bounds()
            current = current * (1 - leak) if self.dynamics.gain == "leaky" else current
            current = _with_first(current, leak * before + current[0], steps)
            dynamics = replace(self.dynamics, initial=0.0, gain="unit")
            spikes, membrane = fire(current, leak, threshold, dynamics, self.estimator, steps=steps)
        return spikes, self._after(membrane[-1], spikes[-1]).detach()

    def distances(self, current: Tensor, spikes: Tensor) -> Tensor:
        """The distance u - V of the membrane before the spike to the threshold at each step, [T, B, ...], from the layer's current, of
        T steps or [1, B, ...], and the spikes [T, B, ...] that it gave.

        Differentiable to all of them; with the gradient of the spikes that is the chain rule of the layer.
        """
        leak, threshold = self.parameters_in_bounds()
        dynamics = self.dynamics
        current = current * (1 - leak) if dynamics.gain == "leaky" else current
        after = dynamics.initial * threshold
        found = []
        for x, spike, kept in zip(current.expand_as(spikes), spikes, leak.expand(len(spikes)), strict=True):
            found.append(kept * after + x)
            after = self._after(found[-1], spike.detach() if dynamics.detach_reset else spike)
        return torch.stack(found) - threshold

    def _after(self, membrane: Tensor, spikes: Tensor) -> Tensor:
        """The membrane after the reset of a step."""
        return membrane * (1 - spikes) if self.dynamics.reset == "hard" else membrane - spikes * self.parameters_in_bounds()[1]

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        if current.dim() < 2:
            raise ModelContractError(f"Expected a current of shape [T, B, ...], got {tuple(current.shape)}.")
        leak, threshold = self.parameters_in_bounds()
        return fire(current, leak, threshold, self.dynamics, self.estimator, steps=steps, keep=keep)

    def parameters_in_bounds(self) -> tuple[Tensor, Tensor]:
        """Leak and threshold, learnt ones held in [0, 1] and above 0.001."""
        if isinstance(self.leak, nn.Parameter):
            return _held(self.leak, 0.0, 1.0), _held(self.threshold, 1e-3, float("inf"))
        return self.leak, self.threshold

    def extra_repr(self) -> str:
        d = self.dynamics
        leak, threshold = float(self.leak.detach()), float(self.threshold.detach())
        return f"leak={leak:.3g}, threshold={threshold:.3g}, reset={d.reset}, comparator={d.comparator}"
