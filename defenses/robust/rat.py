"""SNN-RAT: regularised adversarial training (Ding 2022, arXiv 2210.03544)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trustsnn.defenses.robust.at import AT
from trustsnn.defenses.robust.base import check_plain_weights
from trustsnn.models.network import SpikingNetwork
from trustsnn.settings import setting
from trustsnn.training.sparse import synaptic_layers, weight_of


@dataclass(frozen=True, kw_only=True)
class RAT(AT):
    """Adversarial training by a weak attack, FGSM with eps 2/255 unless given, and after each step, of each convolution and linear
    layer with its weight as a matrix W [outputs, inputs],

        W <- (1 + beta) W - beta W W^T W

    which pulls its singular values towards 1 and so bounds how far the layer can amplify. The authors' code takes a random third of
    the rows of large linear layers, here it is all of them.

    Args:
        beta: 5e-4 to 4e-3 as published.
        eps, steps, step_size: see `AT`. The paper has PGD with 2 steps, too.
    """

    eps: float = setting(2 / 255)
    steps: int = setting(1, 1)
    beta: float = setting(1e-3, 0.0, 1.0)

    name: ClassVar[str] = "rat"

    def check(self, model: SpikingNetwork) -> None:
        super().check(model)
        check_plain_weights(model, self.name)

    @torch.no_grad()
    def after_step(self, model: SpikingNetwork) -> None:
        """The pull."""
        for layer in synaptic_layers(model).values():
            weight = weight_of(layer)
            matrix = weight.flatten(1)
            weight.copy_(((1 + self.beta) * matrix - self.beta * (matrix @ matrix.T) @ matrix).view_as(weight))
