"""Blurs of lens, glass and motion (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from trustsnn.attacks.corruptions.base import Image, corruption
from trustsnn.attacks.corruptions.textures import motion_blur_along, smoothed, zoomed


@corruption("gaussian-blur", (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6))
def gaussian_blur(image: Image, sigma: float, generator: Generator) -> Image:
    """A normal kernel of `sigma` pixels."""
    return smoothed(image, sigma)


@corruption(
    "defocus-blur",
    ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
def defocus_blur(image: Image, radius: float, alias: float, generator: Generator) -> Image:
    """A disk of `radius` pixels, itself smoothed by a normal kernel of `alias` pixels against aliasing."""
    border = 1 if radius <= 8 else 2
    reach = np.arange(-int(radius) - border, int(radius) + border + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.float64)
    kernel = ndimage.gaussian_filter(disk / disk.sum(), alias, mode="constant", radius=border)
    return np.stack([ndimage.correlate(plane, kernel, mode="mirror") for plane in image])


@corruption(
    "glass-blur",
    ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
def glass_blur(image: Image, sigma: float, reach: int, rounds: int, generator: Generator) -> Image:
    """Every pixel swapped with one up to `reach` away, some rounds of it, between two normal blurs.

    Pixels are truly swapped; in the released code views of one array alias and one of the two is copied over the other.
    """
    height, width = image.shape[1:]
    places = list(range(height * width))
    for _ in range(rounds):
        moves = generator.integers(-reach, reach, (height, width, 2)).tolist()
        for row in range(height - reach - 1, reach - 1, -1):
            for column in range(width - reach - 1, reach - 1, -1):
                down, across = moves[row][column]
                here, there = row * width + column, (row + down) * width + column + across
                places[here], places[there] = places[there], places[here]
    shuffled = smoothed(image, sigma).reshape(len(image), -1)[:, places].reshape(image.shape)
    return smoothed(shuffled, sigma)


@corruption(
    "motion-blur",
    ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
def motion_blur(image: Image, radius: int, sigma: float, generator: Generator) -> Image:
    """A streak along a direction within 45 degrees of the horizontal."""
    return motion_blur_along(image, radius, sigma, generator.uniform(-45, 45))


@corruption(
    "zoom-blur",
    ((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
    ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
)
def zoom_blur(image: Image, count: int, step: float, generator: Generator) -> Image:
    """The mean of the image and of `count` zooms of it, by 1, 1 + step, 1 + 2 step, ...

    Zooms are sampled between pixels; the released code crops whole pixels, which on small images would zoom nothing.
    """
    return (image + sum(zoomed(image, 1 + step * k) for k in range(count))) / (count + 1)
