"""PGD: projected gradient ascent from random starts (Madry 2018, arXiv 1706.06083)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.norms import ascend, project, random_start
from trustsnn.blocks import is_stochastic, predict
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Steps of `step_size` (2.5 eps / steps if not given) along the sign or direction of the gradient, each projected to
    the ball and to [0, 1].

    A sample that is misclassified at any iterate is kept as it is there and leaves the batch (`early_stop`), unless the
    model is stochastic, where one draw proves nothing. Restarts run on the survivors; a sample that survives all of them
    keeps its last iterate of the highest loss. A sample that a step leaves where it is takes no further steps.
    """

    steps: int = 10
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    early_stop: bool = True

    name: ClassVar[str] = "pgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1:
            raise ConfigError(f"Expected at least 1 step and 1 restart, got {self.steps} and {self.restarts}.")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ConfigError(f"Expected a positive step_size, got {self.step_size}.")

    @property
    def step(self) -> float:
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "steps": self.steps,
            "step_size": self.step,
            "restarts": self.restarts,
            "random_start": self.random_start,
            "early_stop": self.early_stop,
        }

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        stops = self.early_stop and not is_stochastic(model)
        goal = self.goal(model, x, y, draws)
        found = x.clone()
        best = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        zero = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        bad = torch.zeros_like(zero)
        if stops:
            best[predict(model, x).argmax(1) != y] = torch.inf
        alive = (best < torch.inf).nonzero().squeeze(1)
        for restart in range(self.restarts):
            rows, trial = alive, draws.child("restart", restart)
            if len(rows) == 0:
                break
            here = trial.select(rows.tolist())
            adversarial = random_start(x[rows], self.eps, self.norm, here) if self.random_start else x[rows].clone()
            resting: list[tuple[Tensor, Tensor]] = []
            for step in range(self.steps):
                logits, _, gradient = self.gradient(model, adversarial, goal[rows], here.child("step", step))
                if step == 0 and restart == 0:
                    zero[rows] = (gradient == 0).flatten(1).all(1)
                    bad[rows] = ~torch.isfinite(gradient).flatten(1).all(1)
                if stops:
                    fooled = logits.argmax(1) != y[rows]
                    found[rows[fooled]], best[rows[fooled]] = adversarial[fooled], torch.inf
                    left = ~fooled
                    rows, adversarial, gradient = rows[left], adversarial[left], gradient[left]
                    here = trial.select(rows.tolist())
                    if len(rows) == 0:
                        break
                move = ascend(torch.nan_to_num(gradient, 0.0, 0.0, 0.0), self.step, self.norm)
                moved = project(adversarial + move, x[rows], self.eps, self.norm)
                if not is_stochastic(model):  # a sample that stays where it is will stay there: its later steps are saved
                    still = (moved == adversarial).flatten(1).all(1)
                    resting.append((rows[still], moved[still]))
                    rows, moved = rows[~still], moved[~still]
                    here = trial.select(rows.tolist())
                adversarial = moved
                if len(rows) == 0:
                    break
            if resting:
                rows = torch.cat([rows, *(each for each, _ in resting)])
                adversarial = torch.cat([adversarial, *(each for _, each in resting)])
                here = trial.select(rows.tolist())
            if len(rows) > 0:
                logits, better = self.losses(model, adversarial, goal[rows], here.child("rank"))
                if stops:
                    better = better.masked_fill(logits.argmax(1) != y[rows], torch.inf)
                improved = better > best[rows]
                found[rows[improved]], best[rows[improved]] = adversarial[improved], better[improved]
            alive = (best < torch.inf).nonzero().squeeze(1)
        return AttackResult(found, zero, bad)
