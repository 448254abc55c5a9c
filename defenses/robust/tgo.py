"""TGO: membranes that keep away from the threshold (Wang ICLR 2026, arXiv 2602.20548)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.defenses.robust.base import Robust, Step
from trustsnn.settings import setting


@dataclass(frozen=True, kw_only=True)
class TGO(Robust):
    """CE + weight times the sum over layers of mean max(0, margin - |u - V|).

    The paper raises the weight along a cosine and adds noise to the membranes; here the weight stays, and there is no noise.

    Args:
        weight: lambda of the paper, 0.4 to 0.6 there at its highest.
        margin: delta, in units of the membrane.
    """

    weight: float = setting(0.4)
    margin: float = setting(0.2, above=True)

    name: ClassVar[str] = "tgo"
    images: ClassVar[bool] = False
    membranes: ClassVar[bool] = True

    def terms(self, step: Step) -> list[Tensor]:
        near = [(self.margin - distances.abs()).clamp_min(0).mean() for distances in step.seen.distances.values()]
        return [self.weight * torch.stack(near).sum()]
