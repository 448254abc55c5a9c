"""FGSM and R+FGSM: one gradient step (Goodfellow 2015, arXiv 1412.6572; Tramer 2018, arXiv 1705.07204)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.norms import ascend, project
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """x + eps sign(grad) for L-inf, x + eps grad/|grad| for L2, clamped to [0, 1]. A baseline: it breaks the least."""

    name: ClassVar[str] = "fgsm"

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        return self._one_step(model, x, x, y, draws, self.eps)

    def _one_step(self, model: nn.Module, start: Tensor, x: Tensor, y: Tensor, draws: Draws, length: float) -> AttackResult:
        goal = self.goal(model, x, y, draws)
        _, _, gradient = self.gradient(model, start, goal, draws.child("step", 0))
        bad = ~torch.isfinite(gradient).flatten(1).all(1)
        zero = (gradient == 0).flatten(1).all(1)
        step = ascend(torch.nan_to_num(gradient, 0.0, 0.0, 0.0), length, self.norm)
        return AttackResult(project(start + step, x, self.eps, self.norm), zero, bad)


@dataclass(frozen=True, kw_only=True)
class RFGSM(FGSM):
    """A random step first, `share` of eps along the sign (L-inf) or direction (L2) of normal noise, then a gradient step of
    the rest: it leaves the place where a model that hides its gradient is flat."""

    share: float = 0.5

    name: ClassVar[str] = "r-fgsm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share < 1:
            raise ConfigError(f"Expected share of eps for the random step in [0, 1), got {self.share}.")

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        noise = draws.child("start").normal(tuple(x.shape[1:])).to(x)
        start = project(x + ascend(noise, self.share * self.eps, self.norm), x, self.eps, self.norm)
        return self._one_step(model, start, x, y, draws, (1 - self.share) * self.eps)
