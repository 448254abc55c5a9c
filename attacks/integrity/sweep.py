"""The threshold sweep: which class takes over when all neurons fire more easily than they were trained to. The idea is ours: a trigger drives
neurons that clean samples leave silent, and a lower threshold lets them fire without it. (That thresholds can carry a backdoor: BadSNN,
Miah 2026, arXiv 2602.07200.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trustsnn.attacks.integrity.evidence import Evidence
from trustsnn.attacks.integrity.tampering import scaled, tamperable
from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The statistic of a class is the most that its share of the predictions on clean samples rises when the thresholds of all layers are
    scaled by one of `factors`, all below 1; it is the index, too. Above 1 spikes die out, and what is left of a clean network is one class, too.

    There is no published bound: without reference models the sweep is told, and never a hit.
    """

    factors: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    name: ClassVar[str] = "sweep"
    source: ClassVar[str] = "no published bound; needs reference models"
    threshold: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if not self.factors or not all(0 < each < 1 for each in self.factors):
            raise ConfigError(f"Expected factors of the threshold sweep in (0, 1), got {list(self.factors)}.")

    def refusal(self, model: nn.Module) -> str | None:
        """Why `model` has nothing to sweep; None where it has."""
        if isinstance(model, SpikingNetwork) and tamperable(model):
            return None
        return "the model has no layer of trustsnn's neurons with a threshold of its own"

    def run(self, model: nn.Module, data: Dataset, seed: int = 0) -> Evidence:
        """What the samples of `data`, which are clean, say of each class of `model`."""
        if not isinstance(model, SpikingNetwork):
            raise ConfigError(f"The threshold sweep is for networks of trustsnn's layers, got {type(model).__name__}.")
        before = shares(model, data, seed)
        gains = []
        for factor in self.factors:
            with scaled(model, tamperable(model), "threshold", factor):
                gains.append(shares(model, data, seed) - before)
        most = np.stack(gains).max(0)
        gained = tuple(most.tolist())
        arrays = {"shares": np.stack([before + each for each in gains], axis=1)}
        return Evidence(
            self.name, "largest rise of the share of predictions", gained, gained, self.threshold, self.source, None, arrays
        )

    def describe(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {"detector": self.name, "factors": list(self.factors)}


def shares(model: nn.Module, data: Dataset, seed: int = 0) -> NDArray[np.float64]:
    """The share of the samples that `model` takes for each class, [K]."""
    x = torch.from_numpy(data.batch(np.arange(len(data)))[0])
    draws = Draws(seed, "predict", data.ids) if is_stochastic(model) else None
    with frozen(model):
        logits = predict(model, x, draws)
    found: NDArray[np.float64] = np.bincount(logits.argmax(1).numpy(), minlength=logits.shape[1]) / len(data)
    return found
