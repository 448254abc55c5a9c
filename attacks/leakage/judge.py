"""Whether images show the classes that they are said to show, by a classifier that had no part in making them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softmax

from trustsnn.blocks import BLOCK, frozen
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import stream
from trustsnn.statistics import Figure, proportion, wilson_of_mean

_RESAMPLED = 1000
_REASSIGNED = 10_000
Features = NDArray[np.float64]


class Mean(TypedDict):
    """A mean with its 95 % interval and the number of values."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class ClassLeakage:
    """What images gave away of their classes. `count` is that of the images; the intervals are over them, the classes being given.

    top1, top3: images whose class is the classifier's first choice, or among its first three; `chance` is what they are by chance.
    above_chance: p of a permutation test: the share of reassignments of the classes, drawn at random, under which at least as many
        images have the classifier's first choice. The images of a class stay together, for they are alike.
    confidence: the mean share that the classifier's softmax gives an image's class.
    distance: the mean distance of an image to its class in the classifier's features, 0 for what other real images of that class have
        and 1 for what real images of other classes have; it may lie outside of both.
    predictions: the classifier's choice for each image, confidences: its share for the image's class.
    """

    top1: Figure
    top3: Figure
    chance: tuple[float, float]
    above_chance: float
    confidence: Mean
    distance: Mean
    predictions: list[int]
    confidences: list[float]


class Judge:
    """An independent classifier with real data: call it with images and their classes.

    Feature distance: phi is what the last layer of neurons before the readout gives, its mean over the steps. The real samples are
    cut into two halves by a hash of their ids. m_c is the mean of phi over class c in the first half; own_c and other_c are the mean
    distances |phi(x) - m_c| of the second half's samples of class c and of the other classes. An image x of class c has the distance
    (|phi(x) - m_c| - own_c) / (other_c - own_c).

    Args:
        classifier: a trained network that takes the same images, deterministic. For a fair score it has another architecture and seed
            than the models that are attacked.
        real: samples of all classes, two of each at least, best those that nothing was trained on.

    Raises:
        ConfigError: the classifier draws at random, does not fit the data, or cannot tell a class from others.
    """

    def __init__(self, classifier: SpikingNetwork, real: Dataset, seed: int = 0) -> None:
        if not isinstance(classifier, SpikingNetwork) or classifier.spec.stochastic:
            raise ConfigError(
                "Expected a bundled network without random draws as the judge. Train one with: trustsnn train ann ..."
            )
        spec = classifier.spec
        if (real.domain, real.sample_shape, len(real.classes)) != (spec.domain, spec.input_shape, spec.classes):
            raise ConfigError(
                f"The data set {real.name} ({real.domain}, {real.sample_shape}, {len(real.classes)} classes) does not fit the judge "
                f"({spec.domain}, {spec.input_shape}, {spec.classes} classes)."
            )
        self.classifier, self.seed = classifier, seed
        x, y = real.batch(range(len(real)))
        logits, features = self._look(torch.from_numpy(x))
        self.accuracy = proportion(int((logits.argmax(1).numpy() == y).sum()), len(real))
        first = set(real.take(max(1, len(real) // 2), seed).ids)
        half = np.array([each in first for each in real.ids])
        self._centres, self._own, self._other = self._measured(features, y, half, real)

    def __call__(self, images: Tensor, classes: Sequence[int] | Tensor) -> ClassLeakage:
        """Score images [n, C, H, W] in [0, 1], one class each."""
        wanted = torch.tensor([int(each) for each in classes], dtype=torch.int64)
        if len(wanted) != len(images) or not len(images):
            raise ConfigError(
                f"Expected one class an image and at least one, got {len(images)} images and {len(wanted)} classes."
            )
        logits, features = self._look(images)
        order = logits.argsort(dim=1, descending=True, stable=True)
        hits = order[:, :3] == wanted[:, None]
        shares = softmax(logits.double(), 1).gather(1, wanted[:, None])[:, 0]
        low, high = wilson_of_mean(float(shares.mean()), len(shares))
        y = wanted.numpy()
        distances = _distances(features, self._centres)[np.arange(len(y)), y]
        relative = (distances - self._own[y]) / (self._other[y] - self._own[y])
        return ClassLeakage(
            proportion(int(hits[:, 0].sum()), len(y)),
            proportion(int(hits.any(1).sum()), len(y)),
            (1 / logits.shape[1], min(3, logits.shape[1]) / logits.shape[1]),
            self._above_chance(order[:, 0].numpy(), y),
            {"value": float(shares.mean()), "low": low, "high": high, "count": len(y)},
            self._resampled(relative),
            order[:, 0].tolist(),
            shares.tolist(),
        )

    def _look(self, images: Tensor) -> tuple[Tensor, Features]:
        """Logits [n, K] and features [n, d]."""
        logits, features = [], []
        with frozen(self.classifier), torch.no_grad():
            for start in range(0, len(images), BLOCK):
                block = images[start : start + BLOCK]
                padded = torch.cat([block, block.new_zeros((BLOCK - len(block), *block.shape[1:]))])
                out, rates = self.classifier.activations(padded)
                logits.append(out[: len(block)])
                features.append(list(rates.values())[-1][: len(block)].flatten(1).double().numpy())
        return torch.cat(logits), np.concatenate(features)

    @staticmethod
    def _measured(
        features: Features, labels: NDArray[np.int64], half: NDArray[np.bool_], real: Dataset
    ) -> tuple[Features, Features, Features]:
        classes = range(len(real.classes))
        for each in classes:
            if not (half & (labels == each)).any() or not (~half & (labels == each)).any():
                raise ConfigError(
                    f"Expected samples of the class {real.classes[each]} in both halves of {real.name}, for the feature distance. Take "
                    "more samples."
                )
        centres = np.stack([features[half & (labels == each)].mean(0) for each in classes])
        found = _distances(features[~half], centres)
        mine = labels[~half][:, None] == np.arange(len(classes))
        own = np.array([found[mine[:, each], each].mean() for each in classes])
        other = np.array([found[~mine[:, each], each].mean() for each in classes])
        if (other <= own).any():
            name = real.classes[int(np.flatnonzero(other <= own)[0])]
            raise ConfigError(f"The judge's features do not tell the class {name} from the others. Train the judge longer.")
        return centres, own, other

    def _above_chance(self, predictions: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
        count = len(self._own)
        table = np.zeros((count, count), dtype=np.int64)
        np.add.at(table, (classes, predictions), 1)
        orders = stream(self.seed, "leakage/chance").permuted(np.tile(np.arange(count), (_REASSIGNED, 1)), axis=1)
        hits = table[orders, np.arange(count)].sum(1)
        return float((1 + (hits >= np.trace(table)).sum()) / (1 + _REASSIGNED))

    def _resampled(self, values: Features) -> Mean:
        """The mean, with a bootstrap interval."""
        drawn = stream(self.seed, "leakage/bootstrap").integers(0, len(values), (_RESAMPLED, len(values)))
        low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
        return {"value": float(values.mean()), "low": float(low), "high": float(high), "count": len(values)}


def _distances(features: Features, centres: Features) -> Features:
    found: Features = np.sqrt(((features[:, None] - centres[None]) ** 2).sum(2))
    return found
