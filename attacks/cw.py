"""CW-L2: the smallest perturbation that pays for itself in the logits (Carlini & Wagner 2017, arXiv 1608.04644)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.losses import raised
from trustsnn.attacks.norms import per_sample, project, size
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class CW(Attack):
    """Minimises |d|^2 + c max(kappa - margin, 0) by Adam, with a binary search for each sample's c; the smallest d that
    misleads the model is projected to the ball. It looks for the smallest perturbation, not for the best of a given size.

    Iterates are clipped to [0, 1] (the paper's section V-B, projected gradient descent). Its change of variable through tanh is
    left out: tanh rounds by the place of a number in memory, and a sample's result would depend on its batch. It has a
    loss of its own. A sample that is misclassified without a perturbation stays as it is.

    Args:
        steps: of Adam, for each c.
        searches: values of c tried, the first `first_c`, then ten times more until it works, then bisection.
        learning_rate: of Adam.
        confidence: kappa, the margin to reach, in units of the logits.
    """

    norm: str = "l2"
    steps: int = 100
    searches: int = 5
    first_c: float = 1.0
    learning_rate: float = 0.01
    confidence: float = 0.0

    name: ClassVar[str] = "cw"
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    own_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first_c", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"Expected a positive {name}, got {getattr(self, name)}.")
        if not (math.isfinite(self.confidence) and self.confidence >= 0):
            raise ConfigError(f"Expected confidence of at least 0, got {self.confidence}.")

    def _raised(self, logits: Tensor, goal: Tensor) -> Tensor:
        return raised("margin", logits, goal)  # its derivative to the logits is +-1, so that the gradient has its true length

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        goal = self.goal(model, x, y, draws)
        logits, _ = self.losses(model, x, goal, draws.child("start"))
        rows = (logits.argmax(1) == y).nonzero().squeeze(1)
        found, zero = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        bad = torch.zeros_like(zero)
        length = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
        c = torch.full_like(length, self.first_c)
        if len(rows) == 0:
            return AttackResult(found, zero, bad)
        for search in range(self.searches):
            here = draws.select(rows.tolist()).child("search", search)
            best, shortest, last, flat, broken = self._descend(model, x[rows], y[rows], goal[rows], c[rows], here)
            if search == 0:
                zero[rows], bad[rows] = flat, broken
            works = shortest < torch.inf
            better = shortest < length[rows]
            never = length[rows] == torch.inf
            found[rows] = torch.where(per_sample(better, last), best, torch.where(per_sample(never, last), last, found[rows]))
            length[rows] = torch.minimum(length[rows], shortest)
            low[rows], high[rows] = torch.where(works, low[rows], c[rows]), torch.where(works, c[rows], high[rows])
            c = torch.where(high < torch.inf, (low + high) / 2, 10 * c)
        return AttackResult(project(found, x, self.eps, self.norm), zero, bad)

    def _descend(
        self, model: nn.Module, x: Tensor, y: Tensor, goal: Tensor, c: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The shortest misleading iterate, its length (infinity for none), the last iterate and the flags of the gradient."""
        repeats = len(self._transformations(model, draws))
        at, best, shortest = x.clone(), x.clone(), torch.full_like(c, torch.inf)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        zero = bad = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for step in range(1, self.steps + 1):
            logits, margin, direction = self.gradient(model, at, goal, draws.child("step", step))
            if step == 1:
                zero, bad = (direction == 0).flatten(1).all(1), ~torch.isfinite(direction).flatten(1).all(1)
            length = size(at - x, "l2")
            better = (logits.argmax(1) != y) & (margin >= self.confidence) & (length < shortest)
            best = torch.where(per_sample(better, at), at, best)
            shortest = torch.where(better, length, shortest)
            pull = torch.where(margin <= self.confidence, c.double(), 0.0).to(x) / repeats
            gradient = 2 * (at - x) - per_sample(pull, x) * direction.nan_to_num(0.0, 0.0, 0.0)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
            mean, spread = first / (1 - 0.9**step), (second / (1 - 0.999**step)).sqrt()
            at = (at - self.learning_rate * mean / (spread + 1e-8)).clamp(0, 1)
        return best, shortest, at, zero, bad
