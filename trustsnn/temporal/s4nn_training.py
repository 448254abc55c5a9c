"""Training of S4NN as in its paper: one image at a time, resumable and deterministic per seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.rng import stream
from trustsnn.temporal.events import latency_times
from trustsnn.temporal.s4nn import S4NN
from trustsnn.training import Progress, accuracy
from trustsnn.training.state import TrainingState, load_state, save_state

_CHUNK = 1000  # images between two reports of progress
_RARELY = 1e-3  # of the images of an epoch: a hidden neuron that spikes for fewer is drawn again


@dataclass(frozen=True)
class S4NNConfig:
    """Settings of a training run; the paper's, but for the rate: there 0.2 throughout, here falling to 0 along a cosine over the epochs.

    `gamma`: steps by which a wrong class should come later. `decay`: of the weights, per image and unit of the rate.
    """

    epochs: int = 20
    learning_rate: float = 2.0
    gamma: int = 3
    decay: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"Expected epochs of at least 1, got {self.epochs}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ConfigError(f"Expected a positive learning rate, got {self.learning_rate}.")
        if not (self.gamma >= 1 and 0 <= self.decay < 1):
            raise ConfigError(f"Expected gamma of at least 1 and decay in [0, 1), got {self.gamma} and {self.decay}.")


def train_s4nn(
    model: S4NN,
    data: Dataset,
    config: S4NNConfig | None = None,
    *,
    test: Dataset | None = None,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place and return one row of figures an epoch: loss, train_accuracy (first and alone, while it learns) and,
    with `test`, test_accuracy.

    A hidden neuron that hardly ever spiked in an epoch is drawn again before the next one, as in the authors' code. They weaken
    the weights after each image, here it is done once an epoch and by as much.

    Args:
        folder: where the state after each epoch goes; one of the same settings that is there is taken up, bit for bit.
        test: measured after each epoch, for the log alone; nothing is chosen by it.
        on_step: called after each thousand images.

    Raises:
        ConfigError: the state in `folder` is of other settings, or `data` does not fit the model.
    """
    from trustsnn.temporal.s4nn_online import learn

    config = config or S4NNConfig()
    spec = model.spec
    if data.domain != spec.domain or data.sample_shape != spec.input_shape or len(data.classes) != spec.classes:
        raise ConfigError(
            f"The data set {data.name} ({data.domain}, {data.sample_shape}, {len(data.classes)} classes) does not fit the model "
            f"({spec.domain}, {spec.input_shape}, {spec.classes} classes)."
        )
    identity = {"config": asdict(config), "architecture": model.architecture, "data": data.sha256, "count": len(data)}
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)  # without memory: the state is the weights
    state = TrainingState(0, [], identity)
    if folder is not None:
        state = load_state(folder, model, optimizer, identity) or state
    hidden, output = model.hidden.detach().numpy(), model.output.detach().numpy()
    steps = math.ceil(len(data) / _CHUNK)
    for epoch in range(state.epoch, config.epochs):
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        order = stream(config.seed, f"order/{epoch}").permutation(len(data))
        active = np.zeros(hidden.shape[1], dtype=np.int64)
        loss, correct, seen = 0.0, 0, 0
        for step in range(steps):
            x, y = data.batch(order[step * _CHUNK : (step + 1) * _CHUNK])
            times = _times(model, x)
            found = learn(times, y, hidden, output, model.threshold, model.last, config.gamma, rate, active)
            loss, correct, seen = loss + found[0], correct + found[1], seen + len(y)
            if on_step is not None:
                on_step(Progress(epoch, step + 1, steps, loss / seen))
        for weight in (hidden, output):
            weight *= (1 - rate * config.decay) ** len(data)
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": loss / seen, "train_accuracy": correct / seen}
        if test is not None:
            row["test_accuracy"] = accuracy(model, test)["value"]
        if epoch + 1 < config.epochs:
            _draw_again(model, hidden, active < _RARELY * len(data), config.seed, epoch)
        state = TrainingState(epoch + 1, [*state.log, row], identity)
        if folder is not None:
            save_state(folder, model, optimizer, state)
        if on_epoch is not None:
            on_epoch(row)
    model.eval()
    return state.log


def _times(model: S4NN, x: NDArray[np.float32]) -> NDArray[np.int64]:
    return latency_times(torch.from_numpy(x).flatten(1), model.last).long().numpy()


def _draw_again(model: S4NN, hidden: NDArray[np.float32], silent: NDArray[np.bool_], seed: int, epoch: int) -> None:
    draws = stream(seed, f"s4nn/silent/{epoch}").random(hidden.shape)
    hidden[:, silent] = draws[:, silent] * model.spread[0]
