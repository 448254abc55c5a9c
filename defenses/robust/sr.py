"""SR: sparse input gradients (Liu 2024, arXiv 2405.20355)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.defenses.robust.base import Robust, Step
from trustsnn.settings import setting


def label_share(logits: Tensor, y: Tensor) -> Tensor:
    """f_y = e^(z_y) / (e^(z_y) + max of the other e^z), [B]: the probability of the label against its strongest rival."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return torch.sigmoid(own - logits.scatter(1, y[:, None], -torch.inf).amax(1))


@dataclass(frozen=True, kw_only=True)
class SR(Robust):
    """CE + weight mean[((f_y(x + h v) - f_y(x)) / h)^2] with v = sign grad_x f_y(x), which carries no gradient.

    That quotient is the L1 norm of the input gradient to first order. Both passes are in training mode.

    Args:
        weight: 0.001 to 0.01 as published.
        h: length of the difference, in input units.
    """

    weight: float = setting(0.002)
    h: float = setting(0.01, above=True)

    name: ClassVar[str] = "sr"
    leaf: ClassVar[bool] = True

    def terms(self, step: Step) -> list[Tensor]:
        share = label_share(step.seen.logits, step.y)
        (gradient,) = torch.autograd.grad(share.sum(), step.x, retain_graph=True)
        moved = step.look(step.x.detach() + self.h * gradient.sign())
        slope = (label_share(moved.logits, step.y) - share) / self.h
        return [self.weight * slope.square().mean()]
