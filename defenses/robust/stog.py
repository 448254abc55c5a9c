"""StoG: spikes pass random gates (Ding AAAI 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.defenses.robust.base import Robust, Step
from trustsnn.errors import ConfigError
from trustsnn.models.extended import extended
from trustsnn.models.gates import LEAST, Gate
from trustsnn.models.network import SpikingNetwork
from trustsnn.settings import setting


@dataclass(frozen=True, kw_only=True)
class StoG(Robust):
    """CE + weight times the sum of p^2 over all gates; see `trustsnn.models.gates.Gate`. `adapted` puts the gates in, and the network is
    stochastic from then on, in evaluations, too.

    Args:
        weight: gamma of the paper, of the prior that closes the gates.
        keep: probability that a spike passes, at the start, of the gates that `adapted` puts in. The paper starts at 1.
    """

    weight: float = setting(5e-6)
    keep: float = setting(0.9, LEAST, 1.0)

    name: ClassVar[str] = "stog"
    images: ClassVar[bool] = False

    def adapted(self, model: SpikingNetwork) -> SpikingNetwork:
        """A copy with gates; a network that has some already is given back."""
        if _gates(model):
            return model
        made = extended(model, gates=True)
        with torch.no_grad():
            for gate in _gates(made):
                gate.keep.fill_(self.keep)
        return made

    def terms(self, step: Step) -> list[Tensor]:
        gates = _gates(step.model)
        if not gates:
            raise ConfigError("The recipe 'stog' trains a network with gates. Train what recipe.adapted(model) gives.")
        return [self.weight * torch.stack([gate.probabilities().square().sum() for gate in gates]).sum()]


def _gates(model: SpikingNetwork) -> list[Gate]:
    return [module for module in model.modules() if isinstance(module, Gate)]
