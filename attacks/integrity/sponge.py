"""Sponge inputs: inside the ball, those that make a spiking network work hardest (after Shumailov 2021, arXiv 2006.03463, and for spikes
Krithivasan DAC 2022). On event-driven hardware a spike costs energy and time, so that such an input drains both while it looks as before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.norms import ascend, project, random_start
from trustsnn.blocks import BLOCK, is_stochastic
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws

AIMS = ("energy", "latency")


@dataclass(frozen=True, kw_only=True)
class Sponge(Attack):
    """Steps of `step_size` (2.5 eps / steps if not given) along the gradient of the spikes, each projected to the ball and to [0, 1].
    A sample keeps the iterate with the most spikes, its own input among them.

    Args:
        aim: "energy" raises the spikes of all layers, "latency" those of the layer that fires most, the bottleneck where each layer has
            a core of its own. What a spike costs is 1, or `costs`.
        keep_label: only iterates that leave the model's prediction as it was count, and a step from one that does not goes back along
            the gradient of the cross-entropy.
        costs: what a spike of each layer of neurons costs, such as the synapses behind it, as pairs of name and cost.

    A spike count needs no label: `y` is read by nothing. Draws of a stochastic model are the same at every step.
    """

    steps: int = 20
    step_size: float | None = None
    aim: str = "energy"
    keep_label: bool = False
    costs: tuple[tuple[str, float], ...] = ()

    name: ClassVar[str] = "sponge"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aim not in AIMS:
            raise ConfigError(f"Expected an aim of {', '.join(AIMS)}, got {self.aim!r}.")
        if self.targeted:
            raise ConfigError("A sponge input has no target class.")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise ConfigError(f"Expected a positive step_size, got {self.step_size}.")

    @property
    def step(self) -> float:
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "step_size": self.step, "costs": [list(pair) for pair in self.costs]}

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        if not isinstance(model, SpikingNetwork):
            raise ConfigError(
                f"A sponge attack reads the spikes of a network of trustsnn's layers, got {type(model).__name__}. Build the network "
                "with trustsnn.models.build, or load a checkpoint."
            )
        parts = [
            self._block(model, x[rows.start : rows.stop], draws.select(rows))
            for rows in (range(start, min(start + BLOCK, len(x))) for start in range(0, len(x), BLOCK))
        ]
        return AttackResult(*(torch.cat([part[place] for part in parts]) for place in range(3)))

    def _block(self, model: SpikingNetwork, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, and whether the gradient at the first step was 0 or no number."""
        padding = BLOCK - len(x)
        ids = draws.padded(BLOCK)
        whole = torch.cat([x, x.new_zeros((padding, *x.shape[1:]))])
        work, label, _ = self._look(model, whole, ids, None)
        found, most = whole.clone(), work
        start = random_start(x, self.eps, self.norm, draws) if self.eps else x.clone()
        here = torch.cat([start, whole[len(x) :]])
        zero = bad = torch.zeros(len(x), dtype=torch.bool)
        for step in range(self.steps + 1):
            work, seen, gradient = self._look(model, here, ids, label if self.keep_label else None)
            better = (work > most) & ((seen == label) | (not self.keep_label))
            found[better], most = here[better], torch.where(better, work, most)
            if step == self.steps:
                break
            if step == 0:
                flat = gradient[: len(x)].flatten(1)
                zero, bad = (flat == 0).all(1), ~torch.isfinite(flat).all(1)
            move = ascend(torch.nan_to_num(gradient, 0.0, 0.0, 0.0), self.step, self.norm)
            here = project(here + move, whole, self.eps, self.norm)
        return found[: len(x)], zero, bad

    def _look(self, model: SpikingNetwork, x: Tensor, draws: Draws, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What each sample costs [B], its prediction, and the direction [B, ...] that makes it cost more, or, where the prediction is not
        `label`, that leads back to it."""
        leaf = x.detach().clone().requires_grad_()
        logits, rates = model.activations(leaf, draws if is_stochastic(model) else None)
        prices = dict(self.costs)
        costs = torch.stack([rate.flatten(1).sum(1) * prices.get(name, 1.0) for name, rate in rates.items()])
        work = costs.sum(0) if self.aim == "energy" else costs.max(0).values
        seen = logits.argmax(1)
        raised = work
        if label is not None:
            raised = torch.where(seen == label, work, -cross_entropy(logits, label, reduction="none"))
        (gradient,) = torch.autograd.grad(raised.sum(), leaf, allow_unused=True)
        return work.detach(), seen, torch.zeros_like(x) if gradient is None else gradient
