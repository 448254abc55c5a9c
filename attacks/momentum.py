"""MI-FGSM: gradient steps with momentum, which transfer well to other models (Dong 2018, arXiv 1710.06081)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.norms import ascend, project, unit
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class MIFGSM(Attack):
    """`steps` times m = decay * m + g / |g|_1, then a step of eps / steps along sign(m) (L-inf) or m / |m|_2 (L2), from the clean
    sample. The last iterate is the result."""

    steps: int = 10
    decay: float = 1.0

    name: ClassVar[str] = "mi-fgsm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise ConfigError(f"Expected decay of at least 0, got {self.decay}.")

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        goal = self.goal(model, x, y, draws)
        zero = bad = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        at, momentum = x, torch.zeros_like(x)
        for step in range(self.steps):
            _, _, gradient = self.gradient(model, at, goal, draws.child("step", step))
            if step == 0:
                zero, bad = (gradient == 0).flatten(1).all(1), ~torch.isfinite(gradient).flatten(1).all(1)
            momentum = self.decay * momentum + unit(gradient.nan_to_num(0.0, 0.0, 0.0), "l1")
            at = project(at + ascend(momentum, self.eps / self.steps, self.norm), x, self.eps, self.norm)
        return AttackResult(at, zero, bad)
