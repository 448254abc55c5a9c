"""Adversarial training by PGD (Madry 2018, arXiv 1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trustsnn.attacks import PGD
from trustsnn.defenses.robust.base import Robust
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws
from trustsnn.settings import setting


@dataclass(frozen=True, kw_only=True)
class AT(Robust):
    """Cross-entropy on the samples that PGD makes of the batch, through the network's own surrogate and its running statistics
    (eval mode), in the L-inf ball around each image.

    Args:
        eps: radius, in input units.
        steps: of PGD. With 1 it is FGSM: one step of length eps from the image itself.
        step_size: of each; 2.5 eps / steps where it is 0.
    """

    eps: float = setting(8 / 255)
    steps: int = setting(7, 1)
    step_size: float = setting(0.0)

    name: ClassVar[str] = "at"

    def inputs(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        """The samples of PGD, [B, ...] in [0, 1]."""
        return attacked(PGD, self, model, x, y, draws)


def attacked(
    attack: type[PGD], settings: AT, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws, *, always_random: bool = False
) -> Tensor:
    """The samples that `attack` makes of a batch; its draws follow those of the training step."""
    once = settings.steps == 1 and not always_random
    step = settings.step_size or (settings.eps if settings.steps == 1 else 0)
    run = attack(
        eps=settings.eps,
        steps=settings.steps,
        step_size=step or None,
        random_start=not once,
        early_stop=False,
        seed=draws.seed,
    )
    return run(model, x, y, [f"{draws.task}/{name}" for name in draws.ids])
