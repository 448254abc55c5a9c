"""PGD: projected gradient ascent from random starts (Madry 2018, arXiv 1706.06083)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import AttackResult
from trustsnn.attacks.norms import ascend, project, random_start
from trustsnn.attacks.restarts import Best, Outcome, Problem, RestartedAttack
from trustsnn.blocks import is_stochastic
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class PGD(RestartedAttack):
    """Steps of `step_size` (2.5 eps / steps if not given) along the sign or direction of the gradient, each projected to
    the ball and to [0, 1].

    A sample that is misclassified at any iterate is kept as it is there and leaves the batch (`early_stop`), unless the
    model is stochastic, where one draw proves nothing. Restarts run on the survivors; a sample that survives all of them
    keeps its last iterate of the highest loss. A sample that a step leaves where it is takes no further steps.
    """

    steps: int = 10
    step_size: float | None = None
    random_start: bool = True

    name: ClassVar[str] = "pgd"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ConfigError(f"Expected a positive step_size, got {self.step_size}.")

    @property
    def step(self) -> float:
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "step_size": self.step}

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        if self.restarts > 1 and not self.random_start and not is_stochastic(model):
            raise ConfigError(f"{self.restarts} restarts without a random start are the same run. Leave out one of the two.")
        return super()._run(model, x, y, draws)

    def _search(self, model: nn.Module, problem: Problem) -> Outcome:
        x, y, goal, draws, stops = problem
        best, rows = Best(x), torch.arange(len(x), device=x.device)
        zero = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        bad = torch.zeros_like(zero)
        adversarial = random_start(x, self.eps, self.norm, draws) if self.random_start else x.clone()
        resting: list[tuple[Tensor, Tensor]] = []
        for step in range(self.steps):
            here = draws.select(rows.tolist()).child("step", step)
            logits, _, gradient = self.gradient(model, adversarial, goal[rows], here)
            if step == 0:
                zero, bad = (gradient == 0).flatten(1).all(1), ~torch.isfinite(gradient).flatten(1).all(1)
            if stops:
                fooled = logits.argmax(1) != y[rows]
                best.take(rows[fooled], adversarial[fooled])
                rows, adversarial, gradient = rows[~fooled], adversarial[~fooled], gradient[~fooled]
            if len(rows) == 0:
                break
            move = ascend(torch.nan_to_num(gradient, 0.0, 0.0, 0.0), self.step, self.norm)
            moved = project(adversarial + move, x[rows], self.eps, self.norm)
            if not is_stochastic(model):  # a sample that stays where it is will stay there: its later steps are saved
                still = (moved == adversarial).flatten(1).all(1)
                resting.append((rows[still], moved[still]))
                rows, moved = rows[~still], moved[~still]
            adversarial = moved
            if len(rows) == 0:
                break
        if resting:
            rows = torch.cat([rows, *(each for each, _ in resting)])
            adversarial = torch.cat([adversarial, *(each for _, each in resting)])
        if len(rows) > 0:
            here = draws.select(rows.tolist()).child("rank")
            logits, loss = self.losses(model, adversarial, goal[rows], here)
            if stops:
                loss = loss.masked_fill(logits.argmax(1) != y[rows], torch.inf)
            best.take(rows, adversarial, loss)
        return Outcome(best, zero, bad)
