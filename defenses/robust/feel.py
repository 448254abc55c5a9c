"""FEEL-SNN: images low-passed more and more from step to step, and a leak that is learnt for each step (Xu NeurIPS 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trustsnn.defenses.robust.base import Robust, Step
from trustsnn.errors import ConfigError
from trustsnn.models.extended import extended
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons.evolving import EvolvingLeak

_ENCODER = "frequency"


@dataclass(frozen=True, kw_only=True)
class FEEL(Robust):
    """Cross-entropy of a network with the encoder "frequency" and `EvolvingLeak` neurons, which `adapted` makes of another one."""

    name: ClassVar[str] = "feel"

    def check(self, model: SpikingNetwork) -> None:
        super().check(model)
        if model.spec.encoder not in ("direct", _ENCODER):
            raise ConfigError(f"The recipe 'feel' puts an encoder in the place of 'direct', got {model.spec.encoder!r}.")

    def adapted(self, model: SpikingNetwork) -> SpikingNetwork:
        """A copy with that encoder and those neurons; a network that has them already is given back."""
        return model if _adapted(model) else extended(model, leaks=True, encoder=_ENCODER)

    def terms(self, step: Step) -> list[Tensor]:
        if not _adapted(step.model):
            raise ConfigError("The recipe 'feel' trains another network than this one. Train what recipe.adapted(model) gives.")
        return []


def _adapted(model: SpikingNetwork) -> bool:
    return model.spec.encoder == _ENCODER and any(isinstance(module, EvolvingLeak) for module in model.modules())
