"""Random height maps, streaks and zooms that several corruptions are made of; arrays [H, W] or [C, H, W]."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])


def grey(image: Array) -> Array:
    """Luminance [H, W] of an image [C, H, W] (ITU-R BT.601)."""
    return image[0] if len(image) == 1 else np.tensordot(LUMA, image, axes=1)


def plasma_fractal(shape: tuple[int, ...], decay: float, generator: Generator) -> Array:
    """A cloudy height map of `shape` [H, W] in [0, 1] by the diamond-square algorithm (Fournier 1982) on a torus.

    At each halving of the grid the amplitude of the random offset falls by decay^2, as in the code of Hendrycks 2019.
    """
    size = 2 ** max(1, int(np.ceil(np.log2(max(shape)))))
    heights = np.zeros((size, size))
    step, amplitude = size, 1.0
    while step >= 2:
        half = step // 2
        count = size // step

        def offsets(count: int = count, amplitude: float = amplitude) -> Array:
            return amplitude * generator.uniform(-1, 1, (count, count))

        corners = heights[::step, ::step].copy()
        below, right = np.roll(corners, -1, 0), np.roll(corners, -1, 1)
        centres = (corners + below + right + np.roll(below, -1, 1)) / 4 + offsets()
        heights[half::step, half::step] = centres
        heights[::step, half::step] = (corners + right + centres + np.roll(centres, 1, 0)) / 4 + offsets()
        heights[half::step, ::step] = (corners + below + centres + np.roll(centres, 1, 1)) / 4 + offsets()
        step, amplitude = half, amplitude / decay**2
    heights -= heights.min()
    unit: Array = heights / heights.max()
    return unit[: shape[0], : shape[1]]


def motion_blur_along(image: Array, radius: int, sigma: float, angle: float) -> Array:
    """Each pixel as the mean of those `0 ... 2 radius` pixels away along `angle` (degrees), with the weights of one half of
    a normal curve: the kernel of ImageMagick's motion blur, which Hendrycks 2019 uses. Edges are repeated."""
    reach = np.arange(2 * radius + 1)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    weights /= weights.sum()
    across = np.rint(reach * np.cos(np.deg2rad(angle))).astype(int)
    down = np.rint(reach * np.sin(np.deg2rad(angle))).astype(int)
    height, width = image.shape[-2:]
    rows, columns = np.arange(height), np.arange(width)
    blurred = np.zeros_like(image)
    for weight, dy, dx in zip(weights, down, across, strict=True):
        moved = image[..., np.clip(rows + dy, 0, height - 1), :]
        blurred += weight * moved[..., np.clip(columns + dx, 0, width - 1)]
    return blurred


def zoomed(image: Array, factor: float) -> Array:
    """The image magnified by `factor` >= 1 about its centre and cropped to its size, with linear interpolation."""
    height, width = image.shape[-2:]
    rows, columns = ((np.arange(n) - (n - 1) / 2) / factor + (n - 1) / 2 for n in (height, width))
    where = np.meshgrid(rows, columns, indexing="ij")
    planes = [ndimage.map_coordinates(plane, where, order=1, mode="nearest") for plane in image.reshape(-1, height, width)]
    return np.stack(planes).reshape(image.shape)


def smoothed(image: Array, sigma: float) -> Array:
    """The last two axes under a normal kernel of `sigma` pixels; edges are repeated."""
    spread = (0.0,) * (image.ndim - 2) + (sigma, sigma)
    return np.asarray(ndimage.gaussian_filter(image, spread, mode="nearest"))
