"""MPD-SGR: few membranes where the surrogate has a gradient (Jiang AAAI 2026, arXiv 2511.12199)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.defenses.robust.base import Robust, Step
from trustsnn.settings import setting

_LEAST = 1e-6  # of a standard deviation


def overlap(distances: Tensor, width: float) -> Tensor:
    """Phi((mu + g) / sd) - Phi((mu - g) / sd) with g = width and mu, sd of the distances u - V [T, B, C, ...] of each channel at each
    step, over batch and space: the share of a normal distribution that lies in [-g, g]; [T, C]."""
    values = distances.transpose(1, 2).flatten(2)
    mean, spread = values.mean(2), values.var(2, correction=0).clamp_min(_LEAST**2).sqrt()
    share: Tensor = torch.special.ndtr((mean + width) / spread) - torch.special.ndtr((mean - width) / spread)
    return share


@dataclass(frozen=True, kw_only=True)
class MPDSGR(Robust):
    """CE + weight times the mean over layers, channels and steps of the share of membranes within `width` of the threshold.

    Args:
        weight: eta of the paper.
        width: gamma of the triangular surrogate, in units of the membrane.
    """

    weight: float = setting(0.2)
    width: float = setting(1.0, above=True)

    name: ClassVar[str] = "mpd-sgr"
    images: ClassVar[bool] = False
    membranes: ClassVar[bool] = True

    def terms(self, step: Step) -> list[Tensor]:
        shares = [overlap(distances, self.width).mean() for distances in step.seen.distances.values()]
        return [self.weight * torch.stack(shares).mean()]
