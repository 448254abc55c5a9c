"""Noise of sensors and transmission (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from trustsnn.attacks.corruptions.base import Image, corruption


@corruption("gaussian-noise", (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
def gaussian_noise(image: Image, deviation: float, generator: Generator) -> Image:
    """x + n, n normal with the given standard deviation: a sensor in low light."""
    return image + deviation * generator.standard_normal(image.shape)


@corruption("shot-noise", (500, 250, 100, 75, 50), (60, 25, 12, 5, 3))
def shot_noise(image: Image, photons: float, generator: Generator) -> Image:
    """Poisson(x * photons) / photons: light comes in few quanta."""
    return generator.poisson(image * photons) / photons


@corruption("impulse-noise", (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))
def impulse_noise(image: Image, fraction: float, generator: Generator) -> Image:
    """A fraction of the values becomes 0 or 1, half of them each: bit errors."""
    hit, white = generator.random(image.shape) < fraction, generator.random(image.shape) < 0.5
    return np.where(hit, white.astype(np.float64), image)


@corruption("speckle-noise", (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6))
def speckle_noise(image: Image, deviation: float, generator: Generator) -> Image:
    """x + x n, n normal: noise in proportion to the light."""
    return image + image * deviation * generator.standard_normal(image.shape)
