"""Training by backpropagation through time with a surrogate (STBP, Wu 2018), resumable and deterministic per seed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trustsnn.checkpoint import built_as
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.files import write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws, stream
from trustsnn.training.augment import AUGMENTATIONS, augment
from trustsnn.training.evaluate import accuracy
from trustsnn.training.recipe import CrossEntropy, Recipe
from trustsnn.training.sparse import sparse_settings
from trustsnn.training.state import TrainingState, load_state, save_state

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. `learning_rate` falls to 0 along a cosine over all steps, or stays with `schedule` "constant"."""

    epochs: int = 5
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    label_smoothing: float = 0.0
    augmentation: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch_size", 2)):
            if getattr(self, name) < low:
                raise ConfigError(f"Expected {name} of at least {low}, got {getattr(self, name)}.")
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"Expected an optimizer of {OPTIMIZERS}, got {self.optimizer!r}.")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"Expected a schedule of {SCHEDULES}, got {self.schedule!r}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ConfigError(f"Expected a positive learning rate, got {self.learning_rate}.")
        if not (self.weight_decay >= 0 and 0 <= self.momentum < 1 and 0 <= self.label_smoothing < 1):
            raise ConfigError("Expected weight_decay >= 0, momentum in [0, 1) and label_smoothing in [0, 1).")
        if self.augmentation not in AUGMENTATIONS:
            raise ConfigError(f"Expected an augmentation of {tuple(AUGMENTATIONS)}, got {self.augmentation!r}.")


@dataclass(frozen=True)
class Progress:
    """What a training run tells after each step: epoch (from 0), step and steps of the epoch, running loss."""

    epoch: int
    step: int
    steps: int
    loss: float


def train(
    model: SpikingNetwork,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    recipe: Recipe | None = None,
    test: Dataset | None = None,
    folder: Path | None = None,
    start: Mapping[str, Any] | None = None,
    stop_at: float | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place and return one row of figures an epoch.

    Args:
        model: a network; or a wrapped module, through its own surrogates, where the recipe needs logits alone.
        recipe: what a step minimises; cross-entropy on the logits by default, with the label smoothing of `config`.
        folder: where the state after each epoch (`state.safetensors`) and `log.csv` go. A state of the same settings
            that is already there is taken up: a killed run ends as an unbroken one would, bit for bit.
        start: plain values that say what else the run depends on: where the weights of `model` come from, an estimator that is applied.
            A state with others is refused.
        stop_at: training accuracy in (0, 1], of an epoch as it went, at which it is the last one.
        test: measured after each epoch, for the log alone; nothing is chosen by it.

    Raises:
        ConfigError: the state in `folder` is of other settings, or `data` does not fit the model.
    """
    config = config or TrainConfig()
    if recipe is not None and config.label_smoothing:
        raise ConfigError(f"A recipe smooths labels by itself: give label_smoothing to {recipe.name!r}, not to TrainConfig.")
    check_fit(model, data)
    optimizer = optimizer_of(model, config)
    per_epoch = max(1, len(data) // config.batch_size)
    identity = {"config": asdict(config), "architecture": built_as(model), "data": data.samples_sha256, "count": len(data)}
    if start is not None:
        identity["start"] = dict(start)
    if stop_at is not None:
        if not 0 < stop_at <= 1:
            raise ConfigError(f"Expected a training accuracy to stop at in (0, 1], got {stop_at}.")
        identity["stop_at"] = stop_at
    if sparse := sparse_settings(model):
        identity["sparse"] = sparse
    if recipe is not None:
        identity["recipe"] = recipe.describe()
    state = TrainingState(0, [], identity)
    if folder is not None:
        state = load_state(folder, model, optimizer, identity) or state
    recipe = recipe or CrossEntropy(config.label_smoothing)
    for epoch in range(state.epoch, config.epochs):
        if stop_at is not None and state.log and state.log[-1]["train_accuracy"] >= stop_at:
            break
        model.train()
        order = stream(config.seed, f"order/{epoch}").permutation(len(data))
        total, correct, seen = 0.0, 0, 0
        for step in range(per_epoch):
            rows = order[step * config.batch_size : (step + 1) * config.batch_size]
            if config.schedule == "cosine":
                set_rate(optimizer, config.learning_rate, (epoch * per_epoch + step) / (config.epochs * per_epoch))
            x, y = (torch.from_numpy(a) for a in data.batch(rows))
            draws = Draws(config.seed, f"train/{epoch}", tuple(data.ids[i] for i in rows))
            x = augment(config.augmentation, x, draws.child("augment"))
            for loss, logits in recipe.losses(model, x, y, draws):
                value = loss.item()
                if not math.isfinite(value):
                    raise ModelContractError(
                        f"The loss became {value} in epoch {epoch + 1}, step {step + 1}. Lower the learning rate "
                        f"({config.learning_rate}); the state after the last whole epoch is kept."
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recipe.after_step(model)
                total, correct, seen = total + value * len(y), correct + int((logits.argmax(1) == y).sum()), seen + len(y)
            if on_step is not None:
                on_step(Progress(epoch, step + 1, per_epoch, total / seen))
        lost = next((name for name, p in model.named_parameters() if not torch.isfinite(p).all()), None)
        if lost is not None:  # a comparison with NaN is no spike, so that the loss may not tell
            raise ModelContractError(
                f"The parameter {lost} is not finite after epoch {epoch + 1}. Lower the learning rate ({config.learning_rate}); the state "
                "after the epoch before is kept."
            )
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": total / seen, "train_accuracy": correct / seen}
        if test is not None:
            row["test_accuracy"] = accuracy(model, test, seed=config.seed)["value"]
        state = TrainingState(epoch + 1, [*state.log, row], identity)
        if folder is not None:
            save_state(folder, model, optimizer, state)
            write_text(folder / "log.csv", _csv(state.log))
        if on_epoch is not None:
            on_epoch(row)
    model.eval()
    if folder is not None:
        write_text(folder / "log.csv", _csv(state.log))
    return state.log


def check_fit(model: SpikingNetwork, data: Dataset) -> None:
    """ConfigError where the samples or classes of `data` are not those of the model."""
    spec = model.spec
    shape = tuple(data.batch(np.arange(1))[0].shape[1:])
    if data.domain != spec.domain or shape != spec.input_shape or len(data.classes) != spec.classes:
        raise ConfigError(
            f"The data set {data.name} ({data.domain}, {shape}, {len(data.classes)} classes) does not fit the model "
            f"({spec.domain}, {spec.input_shape}, {spec.classes} classes)."
        )


def optimizer_of(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` asks for, over all parameters."""
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **settings)
    return torch.optim.SGD(model.parameters(), momentum=config.momentum, **settings)


def set_rate(optimizer: torch.optim.Optimizer, base: float, part: float) -> None:
    """The learning rate after the part of a run in [0, 1]: from `base` along a cosine to 0."""
    for group in optimizer.param_groups:
        group["lr"] = base * 0.5 * (1 + math.cos(math.pi * part))


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    names: list[str] = [name for name in ("epoch", "loss", "train_accuracy", "test_accuracy") if name in rows[0]]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
