"""TRADES: clean cross-entropy, and how far an attack moves the outputs (Zhang 2019, arXiv 1901.08573)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import kl_div

from trustsnn.attacks import PGD
from trustsnn.blocks import predict
from trustsnn.defenses.robust.at import AT, attacked
from trustsnn.defenses.robust.base import Step
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws
from trustsnn.settings import setting


def divergence(clean: Tensor, moved: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(moved)) of logits [B, K], [B]."""
    return kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


@dataclass(frozen=True, kw_only=True)
class _Divergence(PGD):
    """PGD that raises the divergence from the clean outputs, whatever the label. At the image itself its gradient is 0."""

    name: ClassVar[str] = "trades-pgd"

    def goal(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return predict(model, x, draws)

    def _raised(self, logits: Tensor, goal: Tensor) -> Tensor:
        clean = goal.to(logits)  # where no spike has changed there is no gradient, nor its rounding error
        return divergence(clean, logits).masked_fill((clean == logits).all(1), 0.0)


@dataclass(frozen=True, kw_only=True)
class TRADES(AT):
    """CE(z(x), y) + beta mean KL(p(x) || p(x')), x' from PGD on that divergence, from a random start.

    Args:
        beta: weight of the divergence.
        eps, steps, step_size: see `AT`.
    """

    beta: float = setting(6.0)

    name: ClassVar[str] = "trades"

    def inputs(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        """The clean batch."""
        return x

    def terms(self, step: Step) -> list[Tensor]:
        moved = attacked(_Divergence, self, step.model, step.x.detach(), step.y, step.draws, always_random=True)
        return [self.beta * divergence(step.seen.logits, step.look(moved).logits).mean()]
