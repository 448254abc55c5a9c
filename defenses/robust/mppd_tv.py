"""MPPD-TV: membranes that an attack hardly moves (Lai ICLR 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.defenses.robust.at import AT
from trustsnn.defenses.robust.base import Step
from trustsnn.settings import setting


@dataclass(frozen=True, kw_only=True)
class MPPDTV(AT):
    """Adversarial training, and weight times the mean over layers of mean |u(x') - u(x)|: the L1 norm of what the attack changes in the
    membranes, resets included.

    Args:
        weight: alpha of the paper.
        eps, steps, step_size: see `AT`.
    """

    weight: float = setting(0.1)

    name: ClassVar[str] = "mppd-tv"
    membranes: ClassVar[bool] = True

    def terms(self, step: Step) -> list[Tensor]:
        clean = step.look(step.clean).distances
        moved = [(distances - clean[name]).abs().mean() for name, distances in step.seen.distances.items()]
        return [self.weight * torch.stack(moved).mean()]
