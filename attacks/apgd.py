"""APGD: projected gradient ascent that sets its own step sizes (Croce & Hein 2020, arXiv 2003.01690; in L1 Croce & Hein 2021,
arXiv 2103.01208)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.attacks.norms import ascend, per_sample, project, size, sparse_sign
from trustsnn.attacks.restarts import Best, Outcome, Problem, RestartedAttack
from trustsnn.blocks import is_stochastic
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


def checkpoints(steps: int) -> list[int]:
    """After how many steps the step size is reconsidered: first 0.22 `steps`, then gaps that shrink by 0.03 down to 0.06."""
    gap, shrink, least = (max(int(part * steps), 1) for part in (0.22, 0.03, 0.06))
    points = [gap]
    while points[-1] < steps:
        gap = max(gap - shrink, least)
        points.append(points[-1] + gap)
    return points


def edge_start(x: Tensor, eps: float, norm: str, draws: Draws) -> Tensor:
    """A random point on the edge of the ball: x + eps u / |u|, u uniform in [-1, 1] (L-inf) or normal (L2), then clamped; in L1
    the projection of normal noise."""
    shape = tuple(x.shape[1:])
    if norm == "l1":
        return project(x + draws.normal(shape).to(x.device), x, eps, norm)
    direction = (2 * draws.uniform(shape) - 1 if norm == "linf" else draws.normal(shape)).to(x.device)
    return project(x + eps * direction / per_sample(size(direction, norm).clamp_min(1e-30), x), x, eps, norm)


class _State(NamedTuple):
    """The samples that are still attacked, one row each."""

    rows: Tensor
    x: Tensor
    y: Tensor
    goal: Tensor
    before: Tensor
    at: Tensor
    loss: Tensor  # at `at`
    gradient: Tensor
    step: Tensor
    best_at: Tensor
    best: Tensor
    best_gradient: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    halved: Tensor  # at the last checkpoint
    best_then: Tensor  # at the last checkpoint
    share: Tensor  # of the entries that a step moves, L1 only
    changed_then: Tensor  # how many entries the best point changed at the last checkpoint, L1 only

    def where(self, kept: Tensor) -> _State:
        return _State(*(each[kept] for each in self))


@dataclass(frozen=True, kw_only=True)
class APGD(RestartedAttack):
    """Gradient ascent with momentum from a random point on the edge of the ball. Each sample's step, at first 2 eps, is halved
    at a checkpoint where less than 0.75 of the steps raised the loss, or where neither the step nor the best loss changed since
    the checkpoint before; the sample then starts again from its best point.

    In L1 steps have no momentum. They move the largest entries of the gradient: 20 % of them, later two thirds of the share that
    the best point changed. The step, at first eps, shrinks by 1.5 down to eps / 10 every 0.04 `steps`, and is eps again, from the
    best point, where that share fell by more than 5 %.

    Args:
        steps: gradient steps of each run, 100 in the paper.
        targets: 0, or run `restarts` times towards each of so many other classes, those of the highest clean logits
            (APGD-T, with 9 targets and the loss "dlr" in the paper).
    """

    steps: int = 100
    targets: int = 0

    name: ClassVar[str] = "apgd"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    least: ClassVar[dict[str, float]] = {**RestartedAttack.least, "targets": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets and self.targeted:
            raise ConfigError("targets already names the classes to move towards. Leave out targeted=True.")

    def _goals(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> list[Tensor]:
        if not self.targets:
            return super()._goals(model, x, y, draws)
        logits, _ = self.losses(model, x, y, draws.child("targets"))
        others = logits.scatter(1, y[:, None], -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :-1]
        return [torch.stack([y, target], 1) for target in others.unbind(1)[: self.targets] for _ in range(self.restarts)]

    def _search(self, model: nn.Module, problem: Problem) -> Outcome:
        best = Best(problem.x)

        def leave(state: _State, logits: Tensor) -> _State:
            if not problem.stops:
                return state
            fooled = logits.argmax(1) != state.y
            best.take(state.rows[fooled], state.at[fooled])
            return state.where(~fooled)

        at = edge_start(problem.x, self.eps, self.norm, problem.draws)
        logits, loss, gradient = self._evaluated(model, at, problem.goal, problem.draws.child("step", 0))
        zero, bad = (gradient == 0).flatten(1).all(1), ~torch.isfinite(gradient).flatten(1).all(1)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        rows, ones = torch.arange(len(at), device=at.device), torch.ones_like(at.flatten(1)[:, 0])
        step = ones * self.eps * (1 if self.norm == "l1" else 2)
        state = _State(
            *(rows, problem.x, problem.y, problem.goal, at, at, loss, gradient, step, at, loss, gradient),
            *(torch.zeros_like(rows), torch.ones_like(zero), loss, 0.2 * ones, ones * at[0].numel()),
        )
        state = leave(state, logits)
        period = max(int(0.04 * self.steps), 1)
        points = list(range(period, self.steps + 1, period)) if self.norm == "l1" else checkpoints(self.steps)
        for k in range(1, self.steps + 1):
            moved = self._moved(state, 0.75 if k > 1 else 1.0)
            if k == 1 and not is_stochastic(model):  # the first step has no momentum: who rests now would rest for ever
                still = (moved == state.at).flatten(1).all(1)
                best.take(state.rows[still], state.at[still], state.loss[still])
                state, moved = state.where(~still), moved[~still]
            if len(state.rows) == 0:
                return Outcome(best, zero, bad)
            here = problem.draws.select(state.rows.tolist()).child("step", k)
            logits, loss, gradient = self._evaluated(model, moved, state.goal, here)
            state = leave(_stepped(state, moved, loss, gradient.nan_to_num(0.0, 0.0, 0.0)), logits)
            if k in points and self.norm == "l1":
                state = _checked_l1(state, self.eps)
            elif k in points:
                state = _checked(state, points[points.index(k) - 1] if k > points[0] else 0, k)
        best.take(state.rows, state.best_at, state.best)
        return Outcome(best, zero, bad)

    def _evaluated(self, model: nn.Module, at: Tensor, goal: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        logits, loss, gradient = self.gradient(model, at, goal, draws)
        return logits, loss.double().nan_to_num(-torch.inf), gradient

    def _moved(self, state: _State, share: float) -> Tensor:
        if self.norm == "l1":
            move = per_sample(state.step, state.at) * sparse_sign(state.gradient, state.share)
        else:
            move = ascend(state.gradient, state.step, self.norm)
        ahead = project(state.at + move, state.x, self.eps, self.norm)
        if share == 1 or self.norm == "l1":
            return ahead
        mixed = state.at + share * (ahead - state.at) + (1 - share) * (state.at - state.before)
        return project(mixed, state.x, self.eps, self.norm)


def _stepped(state: _State, moved: Tensor, loss: Tensor, gradient: Tensor) -> _State:
    better = loss > state.best
    here = per_sample(better, moved)
    return state._replace(
        before=state.at,
        at=moved,
        loss=loss,
        gradient=gradient,
        best_at=torch.where(here, moved, state.best_at),
        best=torch.where(better, loss, state.best),
        best_gradient=torch.where(here, gradient, state.best_gradient),
        rises=state.rises + (loss > state.loss),
    )


def _checked(state: _State, last: int, now: int) -> _State:
    halve = (state.rises <= 0.75 * (now - last)) | (~state.halved & (state.best <= state.best_then))
    here = per_sample(halve, state.at)
    return state._replace(
        step=torch.where(halve, state.step / 2, state.step),
        at=torch.where(here, state.best_at, state.at),
        loss=torch.where(halve, state.best, state.loss),
        gradient=torch.where(here, state.best_gradient, state.gradient),
        rises=torch.zeros_like(state.rises),
        halved=halve,
        best_then=state.best,
    )


def _checked_l1(state: _State, eps: float) -> _State:
    changed = (state.best_at != state.x).flatten(1).sum(1).to(state.step)
    sparser = changed < 0.95 * state.changed_then
    here = per_sample(sparser, state.at)
    return state._replace(
        step=torch.where(sparser, eps, (state.step / 1.5).clamp_min(eps / 10)),
        at=torch.where(here, state.best_at, state.at),
        loss=torch.where(sparser, state.best, state.loss),
        gradient=torch.where(here, state.best_gradient, state.gradient),
        share=changed / state.x.flatten(1).shape[1] / 1.5,
        changed_then=changed,
    )
