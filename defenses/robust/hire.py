"""HIRE-SNN: input noise that is crafted while the time steps run, at the cost of standard training (Kundu ICCV 2021,
arXiv 2110.11417)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trustsnn.defenses.robust.base import Robust
from trustsnn.errors import ConfigError
from trustsnn.kernels.convolution import channels_last
from trustsnn.models.network import Membranes, SpikingNetwork
from trustsnn.neurons.estimator import over_time
from trustsnn.rng import Draws
from trustsnn.settings import setting
from trustsnn.training.recipe import generator_of


@dataclass(frozen=True, kw_only=True)
class HIRE(Robust):
    """The T steps in equal periods, delta = 0 at first. Of each period: T / periods steps on clip(x + delta, 0, 1) from the membranes
    that the last one left, cross-entropy of the readout so far, a step of the optimizer, and

        delta <- clip(delta + step_size sign(g), -eps, eps)

    with g the gradient of that loss with respect to the input. No gradient goes back into an earlier period, so that all periods
    together backpropagate through as many steps as standard training. The paper trains leak and threshold, too: build the network
    with learn=True.

    Args:
        periods: N; T is a multiple of it. With one there is no noise.
        eps: eps_s, bound of delta, in input units.
        step_size: eps_t; eps / (N - 1) where it is 0. N - 1 of these steps reach eps, or there would be less noise than eps says.
    """

    periods: int = setting(2, 1)
    eps: float = setting(8 / 255)
    step_size: float = setting(0.0)

    name: ClassVar[str] = "hire"
    alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.periods > 1 and self.step * (self.periods - 1) < self.eps * (1 - 1e-9):
            raise ConfigError(
                f"Expected a step_size of the recipe 'hire' of at least eps / (periods - 1) = {self.eps / (self.periods - 1):g}, got "
                f"{self.step_size:g}: the noise would never reach eps."
            )

    @property
    def step(self) -> float:
        return self.step_size or self.eps / max(1, self.periods - 1)

    def check(self, model: SpikingNetwork) -> None:
        super().check(model)
        if model.spec.steps % self.periods:
            raise ConfigError(f"Expected periods that divide the {model.spec.steps} time steps of the model, got {self.periods}.")

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """A loss for each period."""
        self.check(model)
        length = model.spec.steps // self.periods
        x = channels_last(x) if x.dim() == 4 else x  # as the first layer and the gradient have it
        delta, readout = torch.zeros_like(x), x.new_zeros(())
        membranes: Membranes = {}
        for start in range(0, model.spec.steps, length):
            end = start + length
            noisy = (x + delta if start else x).clamp(0, 1).requires_grad_(end < model.spec.steps)
            logits = model.part(noisy, range(start, end), membranes, generator_of(model, draws))
            readout = readout.detach() + over_time(logits)
            yield cross_entropy(readout / end, y, label_smoothing=self.label_smoothing), readout / end
            if noisy.grad is not None:
                delta.add_(noisy.grad.sign(), alpha=self.step).clamp_(-self.eps, self.eps)
