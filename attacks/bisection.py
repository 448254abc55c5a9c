"""The smallest perturbation that breaks each sample, as an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.budgets import MOST_ROUNDS, smallest_eps
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class Bisection(Attack):
    """Searches for each sample the smallest eps at which snn-autoattack breaks it, by bisection (`smallest_eps`), and gives back
    the smallest perturbation found. A sample that nothing within `eps` breaks is given back as it is.

    Args:
        profile: of snn-autoattack.
        rounds: bisections, 1 to 20: the result is fine to eps / 2^rounds.
    """

    profile: str = "quick"
    rounds: int = 6

    name: ClassVar[str] = "bisection"
    searches_eps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds > MOST_ROUNDS:
            raise ConfigError(f"Expected rounds of at most {MOST_ROUNDS}, got {self.rounds}.")
        self._ensemble()

    def _ensemble(self) -> SNNAutoAttack:
        return SNNAutoAttack(
            eps=self.eps, norm=self.norm, profile=self.profile, eot=self.eot, seed=self.seed, targeted=self.targeted,
            loss=self.loss, estimator=self.estimator,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """As that of the ensemble, with the rounds of the search."""
        return {**self._ensemble().describe(), "attack": self.name, "rounds": self.rounds}

    def cost(self, model: nn.Module) -> tuple[int, int]:
        """Gradients and forward passes that one sample takes at most."""
        gradients, forwards = self._ensemble().cost(model)
        return (self.rounds + 1) * gradients, (self.rounds + 1) * (forwards + 1)

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        unseen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if self.eps == 0:
            return AttackResult(x, unseen, unseen)
        found = smallest_eps(self._ensemble(), model, x, y, draws.ids, largest=self.eps, rounds=self.rounds)
        return AttackResult(found.adversarial, unseen, unseen)
