"""Robust conversion: an adversarially trained ReLU network, converted and trained on through time (Özdenizci & Legenstein 2023,
arXiv 2311.09266)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trustsnn.checkpoint import model_hash
from trustsnn.conversion import Calibration, hybrid_start
from trustsnn.data import Dataset
from trustsnn.defenses.robust.at import AT
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons.estimator import neurons_of
from trustsnn.training import TrainConfig, train
from trustsnn.training.bptt import Progress
from trustsnn.training.recipe import Recipe


def robust_ann(
    ann: SpikingNetwork,
    data: Dataset,
    *,
    steps: int,
    ann_config: TrainConfig | None,
    config: TrainConfig,
    recipe: Recipe | None = None,
    percentile: float = 99.7,
    scale: float = 0.3,
    samples: int = 1024,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> SpikingNetwork:
    """A spiking network that inherits the robustness of an ANN.

    `ann` is trained in place with `recipe`; its thresholds become `scale` times that percentile of its activations; then weights and
    thresholds are trained on through time with `recipe`. Here normalisation is folded into the weights before that, so that there
    are no statistics left to reset, which the paper does.

    Args:
        ann: a ReLU network, `build(..., neuron="relu")`.
        ann_config: of the ANN's training; None for one that is trained already.
        config: of the fine-tuning.
        recipe: `AT()` unless given.
        samples: of the training split, which balance the thresholds.
        folder: as in `train`; both trainings go on from there where a call was killed.

    Raises:
        ConfigError: no ReLU network, or one with branches, and as `train`.
    """
    recipe = recipe or AT()
    if ann_config is not None:
        train(ann, data, ann_config, recipe=recipe, folder=folder and folder / "ann", on_step=on_step)
    network = hybrid_start(ann, steps, Calibration(data.take(samples), percentile=percentile, scale=scale), learn=True)
    for neuron in neurons_of(network):
        neuron.leak.requires_grad_(False)
    start: dict[str, Any] = {"weights": model_hash(network)}
    train(network, data, config, recipe=recipe, folder=folder and folder / "snn", start=start, on_step=on_step)
    return network
