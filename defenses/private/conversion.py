"""The whole of a private conversion: images, thresholds, training through time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.defenses.private.balance import check_convertible, spiking_start
from trustsnn.defenses.private.distillation import Distillation
from trustsnn.defenses.private.synthesis import Synthesis, synthesise
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws
from trustsnn.statistics import Figure, proportion
from trustsnn.training.bptt import Progress, TrainConfig, train

IMAGES = "synthetic"  # the folder of the images


@dataclass(frozen=True)
class PrivateConversion:
    """Settings of `convert_privately`.

    steps: T.
    images: how the synthetic images are made.
    balance: how many of them balance the thresholds.
    scale: of the balanced thresholds. Published is 1, for a hundred steps and more; with fewer most neurons then stay silent.
    encoder: of the spiking network; the published one is Poisson.
    training: on the synthetic images; None leaves the balanced network as it is.
    temperature, weight: see `Distillation`.
    """

    steps: int
    images: Synthesis = field(default_factory=Synthesis)
    balance: int = 1024
    scale: float = 0.5
    encoder: str = "poisson"
    training: TrainConfig | None = field(default_factory=lambda: TrainConfig(epochs=10, learning_rate=1e-3))
    temperature: float = 4.0
    weight: float = 1.0


@dataclass(frozen=True)
class Told:
    """Who is told of the progress: see `synthesise` and `trustsnn.training.train`."""

    iteration: Callable[[int, int], None] | None = None
    images: Callable[[int, int], None] | None = None
    step: Callable[[Progress], None] | None = None
    epoch: Callable[[dict[str, Any]], None] | None = None


def convert_privately(
    ann: SpikingNetwork, how: PrivateConversion, folder: Path | None = None, told: Told | None = None
) -> tuple[SpikingNetwork, Dataset]:
    """The spiking network and the synthetic images that it was made with. No data set is read.

    Args:
        ann: a trained ReLU network without branches, for images.
        folder: where images (`synthetic/`) and the state of training (`training/`) are kept: a killed conversion goes on there.

    Raises:
        ConfigError: no such ANN, settings out of range, or `folder` is of a conversion with other settings.
    """
    told = told or Told()
    check_convertible(ann, how.steps)
    if how.balance < 1:
        raise ConfigError(f"Expected at least 1 synthetic image to balance the thresholds by, got {how.balance}.")
    recipe = Distillation(ann, how.temperature, how.weight)
    images = synthesise(ann, how.images, None if folder is None else folder / IMAGES, on_step=told.iteration, on_part=told.images)
    seed = how.images.seed
    network = spiking_start(ann, images.take(how.balance), how.steps, encoder=how.encoder, scale=how.scale, seed=seed)
    if how.training is not None:
        train(
            network, images, how.training, recipe=recipe, folder=None if folder is None else folder / "training",
            start={"ann": model_hash(ann), "weights": model_hash(network)}, on_step=told.step, on_epoch=told.epoch,
        )  # fmt: skip
    return network, images


def agreement(network: SpikingNetwork, ann: SpikingNetwork, images: Dataset, seed: int = 0) -> Figure:
    """The share of `images` that both networks give the same class, with its 95 % interval."""
    same = 0
    with frozen(network), frozen(ann):
        for start in range(0, len(images), 256):
            rows = np.arange(start, min(start + 256, len(images)))
            x = torch.from_numpy(images.batch(rows)[0])
            draws = Draws(seed, "predict", tuple(images.ids[i] for i in rows))
            same += int((predict(network, x, draws).argmax(1) == predict(ann, x, draws).argmax(1)).sum())
    return proportion(same, len(images))
