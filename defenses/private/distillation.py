"""Training through time on what an ANN says of images, in place of what is known of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws
from trustsnn.training.recipe import Recipe, logits_of


class Distillation(Recipe):
    """weight tau^2 KL(softmax(teacher/tau) || softmax(logits/tau)) + (1 - weight) CE(logits, y) (Hinton 2015, arXiv 1503.02531).

    Args:
        teacher: a trained network. It is copied, and stays in eval mode.
        temperature: tau, above 0.
        weight: of the teacher, in [0, 1]; with 1 no label is used.
    """

    name = "distillation"

    def __init__(self, teacher: SpikingNetwork, temperature: float = 4.0, weight: float = 1.0) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"Expected a positive temperature of the distillation, got {temperature}.")
        if not 0 <= weight <= 1:
            raise ConfigError(f"Expected a weight of the distillation in [0, 1], got {weight}.")
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.temperature, self.weight = temperature, weight

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """One loss."""
        logits = logits_of(model, x, draws)
        with torch.no_grad():
            wanted = log_softmax(logits_of(self.teacher, x, draws) / self.temperature, 1)
        told = kl_div(log_softmax(logits / self.temperature, 1), wanted, reduction="batchmean", log_target=True)
        yield self.weight * self.temperature**2 * told + (1 - self.weight) * cross_entropy(logits, y), logits

    def describe(self) -> dict[str, Any]:
        """The settings, with the hash of the teacher."""
        return {
            "name": self.name, "teacher": model_hash(self.teacher), "temperature": self.temperature, "weight": self.weight,
        }  # fmt: skip
