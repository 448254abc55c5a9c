"""Extraction: a copy of a model from its answers to queries (knockoff nets), and what the copy is good for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from trustsnn.attacks.corruptions.textures import smoothed
from trustsnn.attacks.pgd import PGD
from trustsnn.attacks.transfer import Transfer
from trustsnn.blocks import BLOCK, frozen, is_stochastic, predict
from trustsnn.data import Dataset, from_arrays
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.rng import Draws
from trustsnn.settings import check_choice, check_settings, setting
from trustsnn.statistics import Figure, proportion
from trustsnn.training import Recipe, TrainConfig, train
from trustsnn.training.recipe import logits_of

ANSWERS = {"labels": "the class alone", "soft": "the softmax over all classes"}
_SIGMA = 1.0


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Knockoff copying (Orekondy 2019, arXiv 1812.02766): the model answers queries, and a copy is trained on what it answered. No label
    of the queries is read.

    Args:
        answers: one of `ANSWERS`.
        steps: of the copy's optimizer, whatever the number of queries.
        batch_size, learning_rate: of its training.
        seed: of the choice of queries, of the training and of a stochastic model's draws.
    """

    answers: str = "soft"
    steps: int = setting(1000, 1)
    batch_size: int = setting(64, 2)
    learning_rate: float = setting(2e-3, above=True)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("extraction", "answers", self.answers, tuple(ANSWERS))
        check_settings(self, "extraction")

    def __call__(self, model: nn.Module, copy: SpikingNetwork, queries: Dataset, budget: int) -> SpikingNetwork:
        """Train `copy` in place on the answers of `model` to the first `budget` of the queries, and return it in eval mode. A smaller
        budget's queries are among those of a larger one.

        Raises:
            ConfigError: fewer queries than the budget, or the copy does not fit queries or answers.
        """
        if not 1 <= budget <= len(queries):
            raise ConfigError(f"Expected a budget of 1 to {len(queries)} queries, which is what there are, got {budget}.")
        asked = queries.take(budget, self.seed)
        shares = answered(model, asked, self.seed)
        labels = shares.argmax(1)
        targets = one_hot(labels, shares.shape[1]).float() if self.answers == "labels" else shares
        lesson = replace(asked, labels=labels.numpy(), classes=tuple(map(str, range(shares.shape[1]))))
        epochs = max(1, round(self.steps / max(1, budget // self.batch_size)))
        config = TrainConfig(epochs=epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, seed=self.seed)
        train(copy, lesson, config, recipe=_Imitation(dict(zip(asked.ids, targets, strict=True))))
        return copy

    def describe(self) -> dict[str, Any]:
        """The settings as plain values; the seed is told apart from them."""
        return {
            "attack": "knockoff", "answers": self.answers, "steps": self.steps, "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
        }  # fmt: skip


class _Imitation(Recipe):
    """Cross-entropy with the answers, [K] by sample id, in place of labels."""

    name: ClassVar[str] = "imitation"

    def __init__(self, answers: dict[str, Tensor]) -> None:
        self.answers = answers

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """One loss."""
        logits = logits_of(model, x, draws)
        yield cross_entropy(logits, torch.stack([self.answers[name] for name in draws.ids])), logits

    def describe(self) -> dict[str, Any]:
        """With a hash of the answers."""
        digest = hashlib.sha256()
        for name, each in sorted(self.answers.items()):
            digest.update(name.encode() + each.numpy().tobytes())
        return {"name": self.name, "answers": digest.hexdigest()}


def answered(model: nn.Module, data: Dataset, seed: int = 0) -> Tensor:
    """The softmax of the model on each sample, [n, K] float32; a stochastic model answers with one draw, keyed by the sample."""
    found = []
    with frozen(model):
        for start in range(0, len(data), 8 * BLOCK):
            rows = range(start, min(start + 8 * BLOCK, len(data)))
            draws = Draws(seed, "predict", tuple(data.ids[row] for row in rows)) if is_stochastic(model) else None
            found.append(predict(model, torch.from_numpy(data.batch(rows)[0]), draws))
    return torch.cat(found).double().softmax(1).float()


def noise_queries(spec: ModelSpec, count: int, seed: int = 0) -> Dataset:
    """Queries without any data: uniform noise, blurred by a Gaussian of 1 pixel and stretched to all of [0, 1].

    Raises:
        ConfigError: the model does not take images.
    """
    if spec.domain != "image" or count < 1:
        raise ConfigError(
            f"Noise as queries is at least one image, for a model of images; got {count} and the domain {spec.domain!r}."
        )
    drawn = Draws(seed, "extraction/noise", tuple(map(str, range(count)))).uniform(spec.input_shape)
    blurred = smoothed(drawn.numpy(), _SIGMA)
    low, high = (ends(blurred, axis=(1, 2, 3), keepdims=True) for ends in (np.min, np.max))
    images = (blurred - low) / np.maximum(high - low, 1e-6)
    return from_arrays(
        images.astype(np.float32), np.zeros(count, dtype=np.int64), name="noise", split="drawn", classes=spec.classes
    )


@dataclass(frozen=True)
class Likeness:
    """What a copy is worth, over the samples of a test set: those where it says what the model says, and those that it has right."""

    agreement: Figure
    accuracy: Figure


def likeness(model: nn.Module, copy: nn.Module, data: Dataset, seed: int = 0) -> Likeness:
    """How far a copy is the model, on samples that neither was made with."""
    mine, its = (answered(each, data, seed).argmax(1).numpy() for each in (model, copy))
    return Likeness(proportion(int((mine == its).sum()), len(data)), proportion(int((its == data.labels).sum()), len(data)))


def misled(model: nn.Module, source: nn.Module | None, data: Dataset, eps: float, steps: int, seed: int = 0) -> Figure:
    """Of the samples that the model has right, those that PGD in a ball of L-inf `eps` misleads it on: made on `source`, or, for None, random
    signs times eps in place of an attack. PGD goes on after the first success (Transfer), but for the model itself.

    Raises:
        ConfigError: the model has no sample right.
    """
    right = np.flatnonzero(answered(model, data, seed).argmax(1).numpy() == data.labels)
    if not len(right):
        raise ConfigError(
            f"Of {len(data)} samples the model has none right, so that none can be misled. Train it, or take more samples."
        )
    kept = data.select(right)
    x, y = (torch.from_numpy(each.copy()) for each in kept.batch(range(len(kept))))
    if source is None:
        signs = Draws(seed, "extraction/signs", kept.ids).uniform(tuple(x.shape[1:])) - 0.5
        moved = (x + eps * signs.sign()).clamp(0, 1)
    elif source is model:
        moved = PGD(eps=eps, steps=steps, seed=seed)(model, x, y, kept.ids)
    else:
        moved = Transfer(eps=eps, steps=steps, source=source, seed=seed)(model, x, y, kept.ids)
    draws = Draws(seed, "predict/adversarial", kept.ids) if is_stochastic(model) else None
    with frozen(model):
        wrong = predict(model, moved, draws).argmax(1) != y
    return proportion(int(wrong.sum()), len(y))
