"""Shadow models: many networks trained alike on different parts of one pool, each once, and what they say of its samples."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trustsnn import checkpoint
from trustsnn.canonical import sha256_of
from trustsnn.data import Dataset
from trustsnn.defenses.dp.privacy import PrivacyConfig
from trustsnn.defenses.dp.train import train_private
from trustsnn.errors import ConfigError
from trustsnn.files import write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import rebuild
from trustsnn.process import keep_freed_memory
from trustsnn.rng import stream
from trustsnn.training.bptt import TrainConfig, train
from trustsnn.training.evaluate import accuracy

_LOG = "log.json"


@dataclass(frozen=True)
class Recipe:
    """How every one of them is trained: an architecture (see `SpikingNetwork.architecture`), the settings, the training accuracy of an
    epoch at which it ends, None for all epochs, and what is asked of a private training, None for a plain one. A model's own seed takes the
    place of both seeds in it."""

    architecture: dict[str, Any]
    config: TrainConfig
    stop_at: float | None = None
    privacy: PrivacyConfig | None = None

    def __post_init__(self) -> None:
        if self.privacy is not None and self.stop_at is not None:
            raise ConfigError("Expected a private training without a training accuracy to stop at: that accuracy is not private.")

    def seeded(self, seed: int) -> Recipe:
        arguments = {**self.architecture["arguments"], "seed": seed}
        return replace(self, architecture={**self.architecture, "arguments": arguments}, config=replace(self.config, seed=seed))


@dataclass(frozen=True)
class Trained:
    """A trained model's folder (a checkpoint), and its epochs: number, loss and accuracy of each."""

    folder: Path
    epochs: list[dict[str, Any]]

    def load(self) -> SpikingNetwork:
        return checkpoint.load_network(self.folder)


def halves(ids: Sequence[str], count: int, seed: int) -> NDArray[np.bool_]:
    """Which of `count` models are trained on each sample [count, N]: a random half of them, so that every sample has as many with as without
    it; with an odd number one more on either side, by a coin."""
    inside = np.zeros((count, len(ids)), dtype=bool)
    for column, sample in enumerate(ids):
        draws = stream(seed, "shadows/half", sample)
        inside[draws.permutation(count)[: (count + int(draws.integers(0, 2))) // 2], column] = True
    return inside


def coins(ids: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """For each sample a fair coin [N], as a target in a membership game is trained on it or not."""
    return np.array([stream(seed, "target/coin", sample).integers(0, 2) for sample in ids], dtype=bool)


def train_all(
    recipe: Recipe, pool: Dataset, inside: NDArray[np.bool_], folder: Path, *, seed: int = 0, workers: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> list[Trained]:  # fmt: skip
    """Train a model for each row of `inside` [S, N], on the samples of the pool [N] that it takes, with seeds from `seed` on.

    Each lies in `folder` under a name that its settings and samples decide: what is there already is not trained again, whoever asked for it,
    and a killed run goes on with the epoch it was in. `workers` processes share the work, 0 does it in this one; every model is trained
    on one thread, so that its bits are the same either way.

    Raises:
        ConfigError: a model would have fewer than 2 samples, or `inside` does not fit the pool.
    """
    if inside.ndim != 2 or inside.shape[1] != len(pool) or not inside.shape[0]:
        raise ConfigError(f"Expected rows of {len(pool)} samples, one a model, got an array of shape {list(inside.shape)}.")
    if inside.sum(1).min() < 2:
        raise ConfigError(f"Expected at least 2 samples a model, got {int(inside.sum(1).min())}. Use a larger pool.")
    tasks = [(recipe.seeded(seed + place), np.flatnonzero(row), folder) for place, row in enumerate(inside)]
    folders: list[Path] = [Path()] * len(tasks)
    with _results(tasks, pool, min(workers, len(tasks))) as results:
        for done, (place, where) in enumerate(results, 1):
            folders[place] = where
            told(f"model {done} of {len(tasks)}: training accuracy {_epochs(where)[-1]['train_accuracy']:.1%}")
    return [Trained(where, _epochs(where)) for where in folders]


Task = tuple[Recipe, NDArray[np.int64], Path]


@contextmanager
def _results(tasks: list[Task], pool: Dataset, workers: int) -> Iterator[Iterator[tuple[int, Path]]]:
    """Place and folder of each task as it ends."""
    if workers < 1:
        yield ((place, _train(task, pool)) for place, task in enumerate(tasks))
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _begin, (pool,))
    try:
        futures = {executor.submit(_train_here, task): place for place, task in enumerate(tasks)}
        yield ((futures[future], future.result()) for future in as_completed(futures))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_pool: Dataset | None = None  # of a worker process


def _begin(pool: Dataset) -> None:
    global _pool
    _pool = pool
    keep_freed_memory()


def _train_here(task: Task) -> Path:
    assert _pool is not None
    return _train(task, _pool)


def _train(task: Task, pool: Dataset) -> Path:
    recipe, rows, folder = task
    data = pool.select(rows)
    said = {
        "config": asdict(recipe.config),
        "architecture": recipe.architecture,
        "stop_at": recipe.stop_at,
        "data": data.samples_sha256,
    }
    if recipe.privacy is not None:
        said["privacy"] = asdict(recipe.privacy)
    where = folder / sha256_of(said)[:24]
    if (where / _LOG).exists():
        return where
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model: Any = rebuild(recipe.architecture)
        if recipe.privacy is None:
            log = train(model, data, recipe.config, folder=where / "training", stop_at=recipe.stop_at)
        else:
            log = train_private(model, data, recipe.config, recipe.privacy, folder=where / "training")[0]
            log[-1]["train_accuracy"] = accuracy(model, data)["value"]
    finally:
        torch.set_num_threads(threads)
    checkpoint.save(model, where, training={"recipe": "shadow", **said})
    write_text(where / _LOG, json.dumps(log, allow_nan=False) + "\n")
    for left in (where / "training").iterdir():
        left.unlink()
    (where / "training").rmdir()
    return where


def _epochs(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / _LOG).read_text(encoding="utf-8"))
    return found
