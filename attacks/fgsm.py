"""FGSM: one step of length eps along the gradient (Goodfellow 2015, arXiv 1412.6572)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.norms import ascend, project
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """x + eps sign(grad) for L-inf, x + eps grad/|grad| for L2, clamped to [0, 1]. A baseline: it breaks the least."""

    name: ClassVar[str] = "fgsm"

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        goal = self.goal(model, x, y, draws)
        _, _, gradient = self.gradient(model, x, goal, draws.child("step", 0))
        bad = ~torch.isfinite(gradient).flatten(1).all(1)
        zero = (gradient == 0).flatten(1).all(1)
        step = ascend(torch.nan_to_num(gradient, 0.0, 0.0, 0.0), self.eps, self.norm)
        return AttackResult(project(x + step, x, self.eps, self.norm), zero, bad)
