"""Unsupervised learning by STDP: neurons compete for each image, the first to spike wins and learns alone.

After Masquelier and Thorpe 2007 (latency code, first spike wins) with the adaptive thresholds of Diehl and Cook 2015. Labels serve only
to name the neurons afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trustsnn.data import Dataset
from trustsnn.encoders import latency
from trustsnn.errors import ConfigError
from trustsnn.rng import stream
from trustsnn.statistics import Figure, proportion
from trustsnn.temporal.stdp import STDP


@dataclass(frozen=True)
class WinnerConfig:
    """Settings. `load`: the sum that each neuron's weights are kept at, per input. `adapt`: what a win adds to the threshold, as a
    share of the threshold that all start from; the mean is kept there, so that who wins often comes later."""

    neurons: int = 100
    epochs: int = 1
    steps: int = 16
    threshold: float = 0.3
    load: float = 0.15
    adapt: float = 0.05
    rule: STDP = field(default_factory=lambda: STDP(0.1, 0.002, 10.0, 10.0))
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.neurons >= 1 and self.epochs >= 1 and self.steps >= 2):
            raise ConfigError(f"Expected at least 1 neuron, 1 epoch and 2 steps, got {self}.")
        if not (self.threshold > 0 and 0 < self.load < 1 and 0 <= self.adapt < 1):
            raise ConfigError(f"Expected a threshold above 0, load in (0, 1) and adapt in [0, 1), got {self}.")


class WinnerTakeAll:
    """One layer without leak: images in a latency code of `steps` steps, weights [I, J] in [0, 1], one winner an image.

    `threshold` of the settings is in units of a neuron's total weight. `labels` [J] names each neuron by a class, -1 where it never won.
    """

    def __init__(self, inputs: int, config: WinnerConfig) -> None:
        self.config = config
        draws = stream(config.seed, "winner/weights").random((inputs, config.neurons))
        self.weight = self._kept(torch.from_numpy(draws).float())
        self.thresholds = torch.full((config.neurons,), config.threshold * config.load * inputs)
        self.labels = torch.full((config.neurons,), -1)

    def winners(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The neuron that wins each image [B], when [B], and the input's spikes [T, B, I], for images [B, ...] in [0, 1].

        The first above its threshold wins, of several in one step that with the most excess; without any, that with the least lack at
        the end.
        """
        spikes = latency(x.flatten(1), self.config.steps)
        excess = (spikes @ self.weight).cumsum(0) - self.thresholds
        above = (excess > 0).any(2)
        when = torch.where(above.any(0), above.to(torch.uint8).argmax(0), self.config.steps - 1)
        return excess[when, torch.arange(len(x))].argmax(1), when, spikes

    def learn(self, x: Tensor) -> None:
        """One step of learning on one image [1, ...]: STDP on the winner's weights, and its threshold up."""
        winner, when, spikes = self.winners(x)
        after = torch.zeros(self.config.steps, 1, 1)
        after[when[0]] = 1
        row = self.weight[:, winner] + self.config.rule.change(spikes, after)[0]
        self.weight[:, winner] = self._kept(row)
        middle = self.thresholds.mean()
        self.thresholds[winner] += self.config.adapt * middle
        self.thresholds *= middle / self.thresholds.mean()

    def name(self, data: Dataset) -> None:
        """Name each neuron by the class that it won most often in `data`, relative to the size of the class."""
        wins = torch.zeros(self.config.neurons, len(data.classes))
        labels = torch.from_numpy(data.labels.copy())
        wins.index_put_((self._won(data), labels), torch.ones(len(data)), accumulate=True)
        share = wins / labels.bincount(minlength=len(data.classes)).clamp_min(1)
        self.labels = torch.where(wins.sum(1) > 0, share.argmax(1), -1)

    def accuracy(self, data: Dataset) -> Figure:
        """Images whose winner bears their label, with the 95 % interval."""
        return proportion(int((self.labels[self._won(data)] == torch.from_numpy(data.labels.copy())).sum()), len(data))

    def _won(self, data: Dataset) -> Tensor:
        blocks = (np.arange(start, min(start + 256, len(data))) for start in range(0, len(data), 256))
        return torch.cat([self.winners(torch.from_numpy(data.batch(rows)[0]))[0] for rows in blocks])

    def _kept(self, weight: Tensor) -> Tensor:
        """Weights in [0, 1] whose sum over the inputs is the load; where the clipping at 1 takes some of it, a little less."""
        weight = weight.clamp(0, 1)
        return (weight * (self.config.load * len(weight) / weight.sum(0).clamp_min(1e-6))).clamp_max(1)


def train_winner(
    data: Dataset, config: WinnerConfig | None = None, *, on_image: Callable[[int, int], None] | None = None
) -> WinnerTakeAll:
    """Learn from the images of `data`, one at a time, then name the neurons with its labels. `on_image` is told how many of how many
    are done."""
    config = config or WinnerConfig()
    layer = WinnerTakeAll(int(np.prod(data.sample_shape)), config)
    done = 0
    for epoch in range(config.epochs):
        for row in stream(config.seed, f"winner/order/{epoch}").permutation(len(data)):
            layer.learn(torch.from_numpy(data.batch([row])[0]))
            done += 1
            if on_image is not None:
                on_image(done, config.epochs * len(data))
    layer.name(data)
    return layer
