"""What a client's training step minimises: cross-entropy, FedProx or FedLEC, by one line of text."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trustsnn.data import Dataset
from trustsnn.federated.local_loss import fedlec_loss, proximal
from trustsnn.models.network import SpikingNetwork
from trustsnn.plugins import Entry
from trustsnn.rng import Draws
from trustsnn.settings import check_settings, from_line, setting
from trustsnn.training import Recipe
from trustsnn.training.recipe import logits_of

_HERE = "trustsnn.federated.losses"
LOSSES = {
    "cross-entropy": Entry(f"{_HERE}:CrossEntropy", "on the client's own samples"),
    "fedprox": Entry(f"{_HERE}:FedProx", "and mu / 2 times the squared distance to the global model (Li 2020)"),
    "fedlec": Entry(f"{_HERE}:FedLEC", "and a margin and a distillation on the classes that the client lacks"),
}


class Loss(Protocol):
    """A loss with its settings."""

    def recipe(self, model: SpikingNetwork, data: Dataset) -> Recipe | None:
        """What a step of a client minimises that begins from the global `model` and trains on `data`; None for cross-entropy."""


@dataclass(frozen=True)
class CrossEntropy:
    """Plain."""

    def recipe(self, model: SpikingNetwork, data: Dataset) -> Recipe | None:
        """None."""
        return None


@dataclass(frozen=True)
class FedProx:
    """`mu` of the proximal term; 0 is plain cross-entropy."""

    mu: float = setting(0.01, 0.0)

    def __post_init__(self) -> None:
        check_settings(self, "loss 'fedprox'")

    def recipe(self, model: SpikingNetwork, data: Dataset) -> Recipe:
        """Cross-entropy and the proximal term."""
        return _Near(self, model)


@dataclass(frozen=True)
class FedLEC:
    """`theta` of the margin, `distillation` of the classes that the client lacks (Yu et al. 2025)."""

    theta: float = setting(0.005, 0.0)
    distillation: float = setting(0.1, 0.0)

    def __post_init__(self) -> None:
        check_settings(self, "loss 'fedlec'")

    def recipe(self, model: SpikingNetwork, data: Dataset) -> Recipe:
        """`trustsnn.federated.local_loss.fedlec_loss`."""
        return _Calibrated(self, model, data)


class _Near(Recipe):
    name = "fedprox"

    def __init__(self, loss: FedProx, model: SpikingNetwork) -> None:
        self.loss = loss
        self.start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        logits = logits_of(model, x, draws)
        yield cross_entropy(logits, y) + proximal(dict(model.named_parameters()), self.start, self.loss.mu), logits

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self.loss)}


class _Calibrated(Recipe):
    name = "fedlec"

    def __init__(self, loss: FedLEC, model: SpikingNetwork, data: Dataset) -> None:
        self.loss, self.start = loss, deepcopy(model).eval().requires_grad_(False)
        self.counts = torch.bincount(torch.from_numpy(data.labels.copy()), minlength=len(data.classes))

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        logits = logits_of(model, x, draws)
        with torch.no_grad():
            theirs = logits_of(self.start, x, draws)
        yield fedlec_loss(logits, y, theirs, self.counts, **asdict(self.loss)), logits

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self.loss)}


def loss(text: str) -> Loss:
    """The loss of a line such as "cross-entropy" or "fedprox:0.01". ConfigError for one that there is not."""
    found: Loss = from_line("loss", LOSSES, text, "fedprox:mu=0.01")
    return found
