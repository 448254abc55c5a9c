"""Attention-guided compression: a sparse network learns to look where a dense one looks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws
from trustsnn.training.recipe import Recipe

Maps = Mapping[str, Tensor]


class AttentionGuided(Recipe):
    """Cross-entropy and alpha/2 times the distance of the attention maps of `layers` from the teacher's (Kundu, WACV 2021).

    The teacher is a dense network, usually an ANN; what is trained is usually a network with fewer synapses, inside `masked` or by
    `train_sparse`. Both see the same images.

    Args:
        teacher: a trained network. It is copied, and stays in eval mode.
        alpha: weight of the distance, at least 0.
        layers: names of layers of neurons that give maps in both networks, "layers.2" and so on; all of the teacher's by default.
        label_smoothing: of the cross-entropy, in [0, 1).

    Raises:
        ConfigError: alpha or a layer is not one of these, or the trained network lacks a layer or has its map in another size.
    """

    name = "attention-guided"

    def __init__(
        self, teacher: SpikingNetwork, alpha: float = 0.1, layers: Sequence[str] | None = None, label_smoothing: float = 0.0
    ) -> None:
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise ConfigError(f"Expected an alpha of at least 0, got {alpha}.")
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.alpha = alpha
        self.label_smoothing = label_smoothing
        zero = next(teacher.parameters()).new_zeros((1, *teacher.spec.input_shape))
        there = list(_maps(self.teacher, zero, Draws(0, "attention", ("",)))[1])
        self.layers = tuple(there if layers is None else layers)
        if not self.layers or not set(self.layers) <= set(there):
            told = ", ".join(there) or "none: it has no convolution"
            raise ConfigError(f"Expected layers with maps among the teacher's ({told}), got {', '.join(self.layers) or 'none'}.")

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """One loss."""
        logits, distance = self.judge(model, x, draws)
        yield cross_entropy(logits, y, label_smoothing=self.label_smoothing) + self.alpha / 2 * distance, logits

    def judge(self, model: SpikingNetwork, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The logits [B, K] of a batch [B, ...], and the mean over its samples of the distance to the teacher's attention."""
        drawn = draws.child("encode")
        logits, maps = _maps(model, x, drawn)
        with torch.no_grad():
            _, wanted = _maps(self.teacher, x, drawn)
        for name in self.layers:
            got, size = (list(each[name].shape[1:]) if name in each else "no map" for each in (maps, wanted))
            if got != size:
                raise ConfigError(f"Expected a map of the teacher's size {size} from {name}, got {got}. Choose other layers.")
        return logits, torch.stack([attention_distance(maps[name], wanted[name]) for name in self.layers]).sum(0).mean()

    def describe(self) -> dict[str, Any]:
        """The settings, with the hash of the teacher."""
        return {
            "name": self.name, "teacher": model_hash(self.teacher), "alpha": self.alpha, "layers": list(self.layers),
            "label_smoothing": self.label_smoothing,
        }  # fmt: skip


def attention_map(activations: Tensor) -> Tensor:
    """Where a layer is active (Zagoruyko and Komodakis, ICLR 2017): the sum over channels of a^2, [B, C, H, W] -> [B, H, W]."""
    return activations.square().sum(1)


def attention_distance(maps: Tensor, others: Tensor) -> Tensor:
    """The Euclidean distance [B] of two attention maps [B, H, W], each scaled to length 1 first: from 0 to sqrt(2), 1 from one of
    zeros."""
    difference = normalize(maps.flatten(1), dim=1) - normalize(others.flatten(1), dim=1)
    found: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return found


def _maps(model: SpikingNetwork, x: Tensor, draws: Draws) -> tuple[Tensor, Maps]:
    """The logits, and the attention map of each layer of neurons behind a convolution."""
    logits, activations = model.activations(x, draws if model.spec.stochastic else None)
    return logits, {name: attention_map(each) for name, each in activations.items() if each.dim() == 4}
