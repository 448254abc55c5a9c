"""Where private training draws its batches and its noise from: the operating system, or a seed for repeatable experiments."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trustsnn.rng import stream


class Randomness(ABC):
    """Poisson samples of batches and Gaussian noise."""

    name: ClassVar[str]

    @abstractmethod
    def uniform(self, step: int, count: int) -> NDArray[np.float64]:
        """Which samples are in the batch of a step: uniform draws in [0, 1)."""

    @abstractmethod
    def normal(self, step: int, count: int) -> NDArray[np.float64]:
        """The noise of a step: standard normal draws."""

    def batch(self, step: int, count: int, rate: float) -> NDArray[np.int64]:
        """The Poisson sample of a step: each of `count` rows with probability `rate`, independently."""
        return np.flatnonzero(self.uniform(step, count) < rate)


class Secret(Randomness):
    """From the operating system's cryptographic generator: nobody can draw it again.

    A normal draw is half the sum of four, after which its last bits no longer tell what it was added to (Holohan & Braghin 2021, arXiv
    2107.10138, section 5.1).
    """

    name = "operating system"

    def uniform(self, step: int, count: int) -> NDArray[np.float64]:
        """Multiples of 2^-53."""
        return (np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, step: int, count: int) -> NDArray[np.float64]:
        """By Box and Muller."""
        radius, angle = self.uniform(step, 4 * count).reshape(2, 2, count)
        radius = np.sqrt(-2 * np.log1p(-radius))
        pairs = np.concatenate([radius * np.cos(2 * np.pi * angle), radius * np.sin(2 * np.pi * angle)])
        return pairs.sum(0) / 2  # type: ignore[no-any-return]


class Seeded(Randomness):
    """From a seed: repeatable, and without a guarantee against whoever knows the seed."""

    name = "seed"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def uniform(self, step: int, count: int) -> NDArray[np.float64]:
        """Keyed by seed and step."""
        return stream(self.seed, f"dp/batch/{step}").random(count)

    def normal(self, step: int, count: int) -> NDArray[np.float64]:
        """Keyed by seed and step."""
        return stream(self.seed, f"dp/noise/{step}").standard_normal(count)
