"""What a training step minimises: the plain loss here, robust training in `trustsnn.defenses`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws


class Recipe(ABC):
    """How a batch becomes losses. `train` takes an optimizer step for each loss that `losses` yields."""

    name: ClassVar[str]

    @abstractmethod
    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each loss of a batch with the logits [B, K] that it judges.

        The generator goes on after backward() and the optimizer's step, so it may read gradients and sees the new weights.
        Args:
            x: [B, ...] in the model's domain.
            y: labels [B], int64.
            draws: keyed by seed, epoch and sample; take a child for each purpose.
        """

    def after_step(self, model: SpikingNetwork) -> None:  # noqa: B027
        """Change the weights in place after a step of the optimizer."""

    def describe(self) -> dict[str, Any]:
        """Name and settings, plain values: part of a training run's identity."""
        return {"name": self.name}


class CrossEntropy(Recipe):
    """Cross-entropy on the logits of the batch as it is, with label smoothing in [0, 1)."""

    name = "cross-entropy"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """One loss."""
        logits = logits_of(model, x, draws)
        yield cross_entropy(logits, y, label_smoothing=self.label_smoothing), logits


def logits_of(model: SpikingNetwork, x: Tensor, draws: Draws) -> Tensor:
    """Logits [B, K] of a forward pass; a network that draws takes its numbers from the child "encode"."""
    found: Tensor = model(x, generator_of(model, draws)) if model.spec.stochastic else model(x)
    return found


def generator_of(model: SpikingNetwork, draws: Draws) -> Draws | None:
    """What a stochastic network draws from in a training step, None for one that does not draw."""
    return draws.child("encode") if model.spec.stochastic else None
