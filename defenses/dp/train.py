"""Differentially private training (DP-SGD, Abadi 2016): Poisson-sampled batches, gradients clipped per sample, Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.data import Dataset
from trustsnn.defenses.dp.gradients import clipped_sum_of, refuse_unfit_layers, trainable
from trustsnn.defenses.dp.noise import Randomness, Secret, Seeded
from trustsnn.defenses.dp.privacy import Guarantee, PrivacyConfig, epsilon, guarantee, steps_per_epoch
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws
from trustsnn.training.augment import augment
from trustsnn.training.bptt import TrainConfig, check_fit, optimizer_of, set_rate
from trustsnn.training.evaluate import accuracy
from trustsnn.training.state import TrainingState, load_state, save_state

OnStep = Callable[[int, int, int], None]  # epoch (from 0), step (from 1) and steps of the epoch


def train_private(
    model: SpikingNetwork,
    data: Dataset,
    config: TrainConfig | None = None,
    privacy: PrivacyConfig | None = None,
    *,
    test: Dataset | None = None,
    folder: Path | None = None,
    on_step: OnStep | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[list[dict[str, Any]], Guarantee]:
    """Train `model` in place, and return one row of figures an epoch, with the eps spent so far, and what the run guarantees.

    A step takes each sample with probability q = batch_size / N, clips its gradient to the norm C, adds noise of standard deviation
    sigma C to the sum, and divides by batch_size, the expected size. Of the training data there are no other figures: its loss and
    accuracy are not private.

    Args:
        config: as for `trustsnn.training.train`; `batch_size` is the expected size of a batch.
        privacy: what is asked for; eps 8 at delta 1e-5 by default.
        test: measured after each epoch; the guarantee is not about it.
        folder: where the state after each epoch goes, from which a killed run goes on: bit for bit with `privacy.seeded`, else with
            fresh noise, which is as private. What a killed epoch computed is not kept.

    Raises:
        ConfigError: batch normalisation, settings that fit no guarantee, or a state of another run.
    """
    config, privacy = config or TrainConfig(), privacy or PrivacyConfig(eps=8.0)
    check_fit(model, data)
    refuse_unfit_layers(model)
    source: Randomness = Seeded(config.seed) if privacy.seeded else Secret()
    promise = guarantee(
        privacy, samples=len(data), batch_size=config.batch_size, epochs=config.epochs, randomness=source.name
    )  # fmt: skip
    optimizer = optimizer_of(model, config)
    identity = {
        "config": asdict(config), "architecture": model.architecture, "data": data.samples_sha256, "count": len(data),
        "privacy": asdict(privacy),
    }  # fmt: skip
    state = TrainingState(0, [], identity)
    if folder is not None:
        state = load_state(folder, model, optimizer, identity) or state
    per_epoch = steps_per_epoch(len(data), config.batch_size)
    for epoch in range(state.epoch, config.epochs):
        model.train()
        for place in range(per_epoch):
            step = epoch * per_epoch + place
            if config.schedule == "cosine":
                set_rate(optimizer, config.learning_rate, step / promise.steps)
            rows = source.batch(step, len(data), promise.rate)
            total = _clipped(model, data, rows, config, privacy.clip, epoch)
            noise(model, total, source, step, promise.sigma * privacy.clip)
            for name, parameter in trainable(model).items():
                parameter.grad = total[name] / config.batch_size
            optimizer.step()
            if on_step is not None:
                on_step(epoch, place + 1, per_epoch)
        spent = epsilon(
            privacy.accountant, sigma=promise.sigma, rate=promise.rate, steps=(epoch + 1) * per_epoch, delta=privacy.delta
        )
        row: dict[str, Any] = {"epoch": epoch + 1, "eps": spent}
        if test is not None:
            row["test_accuracy"] = accuracy(model, test, seed=config.seed)["value"]
        state = TrainingState(epoch + 1, [*state.log, row], identity)
        if folder is not None:
            save_state(folder, model, optimizer, state)
        if on_epoch is not None:
            on_epoch(row)
    model.eval()
    return state.log, promise


def _clipped(
    model: nn.Module, data: Dataset, rows: NDArray[np.int64], config: TrainConfig, clip: float, epoch: int
) -> dict[str, Tensor]:
    x, y = (torch.from_numpy(a) for a in data.batch(rows))
    draws = Draws(config.seed, f"train/{epoch}", tuple(data.ids[i] for i in rows))
    x = augment(config.augmentation, x, draws.child("augment"))
    loss = partial(cross_entropy, label_smoothing=config.label_smoothing)
    return clipped_sum_of(model, x, y, clip, draws=draws, loss=loss)


def noise(model: nn.Module, total: dict[str, Tensor], source: Randomness, step: int, deviation: float) -> None:
    """Add normal draws of that standard deviation to the sum of clipped gradients, in place, in the order of the parameters."""
    parameters = trainable(model)
    drawn = torch.from_numpy(source.normal(step, sum(p.numel() for p in parameters.values())))
    for (name, parameter), part in zip(parameters.items(), drawn.split([p.numel() for p in parameters.values()]), strict=True):
        total[name] += (deviation * part).view_as(parameter).to(parameter)
