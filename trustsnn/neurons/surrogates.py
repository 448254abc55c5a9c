"""Surrogate derivatives of the spike: what stands in for the Dirac delta when a loss is differentiated.

Each is a function of the distance `d = u - V` of the membrane to the threshold and of a width, and each integrates to 1
over d unless its note says otherwise, so that surrogates of different shape pass on comparable gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trustsnn.errors import ConfigError


def triangular(distance: Tensor, width: float) -> Tensor:
    """max(0, g - |d|) / g^2 with g = width: compact support [-g, g], peak 1/g."""
    return (width - distance.abs()).clamp_min_(0).mul_(1 / width**2)


def rectangular(distance: Tensor, width: float) -> Tensor:
    """1[|d| < g] / (2g) with g = width: compact support, constant inside."""
    return (distance.abs() < width).to(distance.dtype).mul_(1 / (2 * width))


def atan(distance: Tensor, width: float) -> Tensor:
    """(a/2) / (1 + (pi a d / 2)^2) with a = 1/width: heavy tails, peak 1/(2 width)."""
    scale = math.pi / (2 * width)
    return (distance * scale).square_().add_(1).reciprocal_().mul_(1 / (2 * width))


def sigmoid(distance: Tensor, width: float) -> Tensor:
    """Derivative of sigmoid(d / width): peak 1/(4 width)."""
    rate = torch.sigmoid(distance / width)
    return rate * (1 - rate) / width


def exponential(distance: Tensor, width: float) -> Tensor:
    """b exp(-b |d|) with b = 1/width. Integrates to 2, as published (METHODS, Rathi): peak 1/width."""
    return torch.exp(distance.abs() * (-1 / width)).mul_(1 / width)


def straight_through(distance: Tensor, width: float) -> Tensor:
    """1 everywhere (STE). `width` has no effect."""
    return torch.ones_like(distance)


SURROGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "triangular": triangular,
    "rectangular": rectangular,
    "atan": atan,
    "sigmoid": sigmoid,
    "exponential": exponential,
    "ste": straight_through,
}


@dataclass(frozen=True)
class Surrogate:
    """A surrogate by name and width. `width` is in units of the membrane and must be positive and finite."""

    name: str = "triangular"
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in SURROGATES:
            raise ConfigError(f"Unknown surrogate {self.name!r}. Known: {', '.join(SURROGATES)}.")
        if not (math.isfinite(self.width) and self.width > 0):
            raise ConfigError(f"Expected a positive surrogate width, got {self.width}.")

    def derivative(self, distance: Tensor) -> Tensor:
        """The surrogate derivative at `distance = u - V`, elementwise, same shape and dtype."""
        return SURROGATES[self.name](distance, self.width)
