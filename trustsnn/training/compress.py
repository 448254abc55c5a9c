"""Training that ends with a share of the synapses gone: at random from the start, or found on the way and then kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.training.bptt import Progress, TrainConfig, train
from trustsnn.training.grad_r import GradR
from trustsnn.training.sparse import Masks, check_sparsity, magnitude_masks, maskable_layers, masked, random_masks

SPARSE = {
    "gradr": "Grad R for half of the epochs, its prior resting at the target; the largest weights that it leaves (LAMP) are then trained on",
    "magnitude": "dense for half of the epochs; the largest weights (LAMP, Lee 2021) are then trained on",
    "random": "drawn before training, for each layer alike",
}


def train_sparse(
    model: SpikingNetwork,
    data: Dataset,
    config: TrainConfig,
    sparsity: float,
    how: str = "gradr",
    *,
    alpha: float = GradR.alpha,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    **arguments: Any,
) -> list[dict[str, Any]]:
    """Train `model` in place so that at least the share `sparsity` of its synapses is 0 at the end, and return a row an epoch.

    Args:
        config: its epochs are those of both halves; the learning rate falls to 0 in each.
        sparsity: in [0, 1), of all synapses together; "random" takes it of each layer. Grad R needs 0.5 or more, and may leave fewer synapses.
        how: one of `SPARSE`.
        alpha: see `GradR`.
        folder: the second half keeps its state in `folder/masked`. See `train`, as for `on_step`, `on_epoch` and `arguments`,
            of which a `recipe` is for both halves.
    """
    check_sparsity(sparsity)
    maskable_layers(model)
    if how not in SPARSE:
        raise ConfigError(f"Expected sparse training by one of {', '.join(SPARSE)}, got {how!r}.")
    if how == "random":
        with masked(model, random_masks(model, sparsity, config.seed)):
            return train(model, data, config, folder=folder, on_step=on_step, on_epoch=on_epoch, **arguments)
    if config.epochs < 2:
        raise ConfigError(f"Expected at least 2 epochs for sparse training by {how!r}, got {config.epochs}.")
    first = (config.epochs + 1) // 2
    with GradR(sparsity, alpha, hold=True).applied(model) if how == "gradr" else nullcontext():
        log = train(
            model, data, replace(config, epochs=first), folder=folder, on_step=on_step, on_epoch=on_epoch,
            **arguments,
        )  # fmt: skip

    def step(progress: Progress) -> None:
        if on_step is not None:
            on_step(replace(progress, epoch=progress.epoch + first))

    def epoch(row: dict[str, Any]) -> None:
        if on_epoch is not None:
            on_epoch(_later(row, first))

    with masked(model, magnitude_masks(model, sparsity)):
        rest = replace(config, epochs=config.epochs - first)
        return log + [
            _later(row, first)
            for row in train(model, data, rest, folder=folder and folder / "masked", on_step=step, on_epoch=epoch, **arguments)
        ]


def zero_masks(model: nn.Module) -> Masks:
    """For `masked`: what keeps each synapse that is exactly 0 as it is, for the layers that have some. Training that goes on from a
    sparse network keeps its sparsity inside."""
    return {name: mask for name, mask in magnitude_masks(model, 0.0).items() if not mask.all()}


def _later(row: dict[str, Any], epochs: int) -> dict[str, Any]:
    return {**row, "epoch": row["epoch"] + epochs}
