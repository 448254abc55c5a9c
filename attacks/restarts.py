"""Attacks that are run several times on the samples that the runs before did not break."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.blocks import is_stochastic, predict
from trustsnn.rng import Draws


class Problem(NamedTuple):
    """The samples of one run: clean inputs [B, ...], labels [B], what the loss is about, the draws, and whether a
    misclassified sample is done."""

    x: Tensor
    y: Tensor
    goal: Tensor
    draws: Draws
    stops: bool


class Best:
    """Of each sample the best point so far [B, ...], its score [B] (double, the loss; infinity where the sample is done), and the
    processor time at which it was done [B] (double, infinity where it is not)."""

    def __init__(self, points: Tensor) -> None:
        self.points = points.clone()
        self.score = torch.full((len(points),), -torch.inf, dtype=torch.float64, device=points.device)
        self.fell = torch.full_like(self.score, torch.inf)

    def take(self, rows: Tensor, points: Tensor, score: Tensor | float = torch.inf) -> None:
        """These points of these samples; without a score they are done."""
        self.points[rows], self.score[rows] = points, score
        done = rows[self.score[rows] == torch.inf]
        self.fell[done] = self.fell[done].clamp_max(time.process_time())


class Outcome(NamedTuple):
    """What one run found, the flags of the first gradient [B], and the forward passes taken [B] where they are counted."""

    best: Best
    zero: Tensor
    bad: Tensor
    queries: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class RestartedAttack(Attack):
    """Runs `restarts` searches and keeps each sample's best point.

    A sample that is misclassified anywhere is done and leaves the batch (`early_stop`), unless the model is stochastic,
    where one draw proves nothing. A sample that survives all runs keeps its point of the highest loss.
    """

    restarts: int = 1
    early_stop: bool = True

    @abstractmethod
    def _search(self, model: nn.Module, problem: Problem) -> Outcome: ...

    def _goals(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> list[Tensor]:
        """The goal of each run."""
        return [self.goal(model, x, y, draws)] * self.restarts

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        begun, stops = time.process_time(), self.early_stop and not is_stochastic(model)
        best = Best(x)
        zero = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        bad, queries = torch.zeros_like(zero), torch.zeros_like(y)
        counted = False
        if stops:
            wrong = (predict(model, x, draws).argmax(1) != y).nonzero().squeeze(1)
            best.take(wrong, x[wrong])
            queries += 1
        for run, goal in enumerate(self._goals(model, x, y, draws)):
            rows = (best.score < torch.inf).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            here = draws.child("restart", run).select(rows.tolist())
            outcome = self._search(model, Problem(x[rows], y[rows], goal[rows], here, stops))
            if run == 0:
                zero[rows], bad[rows] = outcome.zero, outcome.bad
            if outcome.queries is not None:
                queries[rows] += outcome.queries
                counted = True
            improved = outcome.best.score > best.score[rows]
            best.take(rows[improved], outcome.best.points[improved], outcome.best.score[improved])
            best.fell[rows] = torch.minimum(best.fell[rows], outcome.best.fell)
        return AttackResult(best.points, zero, bad, queries if counted else None, best.fell - begun)
