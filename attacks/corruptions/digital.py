"""Contrast, elastic deformation, pixelation and JPEG (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import fft, ndimage

from trustsnn.attacks.corruptions.base import Image, corruption
from trustsnn.attacks.corruptions.textures import LUMA, Array

# The example tables of the JPEG standard (ITU-T T.81, annex K), which every common encoder scales by the quality.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCC = np.array([LUMA, [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_FROM_YCC = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])


@corruption("contrast", (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(image: Image, kept: float, generator: Generator) -> Image:
    """mean + kept * (x - mean), the mean of each channel."""
    means = image.mean((1, 2), keepdims=True)
    return np.asarray(means + kept * (image - means))


@corruption(
    "elastic",
    ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
)
def elastic(image: Image, amplitude: float, sigma: float, shift: float, generator: Generator) -> Image:
    """A random affine map (three points each moved by up to `shift`) after a displacement of `amplitude` times uniform
    noise smoothed over `sigma`; all in fractions of the image's side. Both maps are composed and sampled once, linearly."""
    height, width = image.shape[1:]
    side = min(height, width)
    centre, arm = np.array([height, width]) // 2, max(1, side // 3)
    corners = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + generator.uniform(-shift, shift, (3, 2)) * side
    affine = np.linalg.solve(np.c_[moved, np.ones(3)], corners.astype(np.float64))  # from the result back to the source
    noise = generator.uniform(-1, 1, (2, height, width))
    spread = (0.0, sigma * side, sigma * side)
    displaced = np.indices((height, width)) + amplitude * side * ndimage.gaussian_filter(
        noise, spread, mode="reflect", truncate=3
    )
    where = np.einsum("kij,kl->lij", np.concatenate([displaced, np.ones((1, height, width))]), affine)
    return np.stack([ndimage.map_coordinates(plane, where, order=1, mode="mirror") for plane in image])


@corruption("pixelate", (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(image: Image, fraction: float, generator: Generator) -> Image:
    """Averaged down to a fraction of the size (whole pixels, at least one), and back up by repetition."""
    for axis in (1, 2):
        size = image.shape[axis]
        small = max(1, int(size * fraction))
        coarse = np.moveaxis(np.tensordot(_area_average(size, small), image, axes=(1, axis)), 0, axis)
        image = coarse.take(((np.arange(size) + 0.5) * small / size).astype(int), axis=axis)
    return image


def _area_average(size: int, small: int) -> Array:
    """Weights [small, size] by which `size` pixels are averaged to `small` larger ones, by the overlap of their areas."""
    edges, pixels = np.arange(small + 1) * size / small, np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return overlap.clip(0) * small / size


@corruption("jpeg", (80, 65, 58, 50, 40), (25, 18, 15, 10, 7))
def jpeg(image: Image, quality: int, generator: Generator) -> Image:
    """What baseline JPEG keeps at a quality of 1 to 100: 8-bit YCbCr, chroma at half size, 8x8 cosine blocks quantised by
    the standard's tables (ITU-T T.81). The entropy coding is lossless and left out."""
    levels = np.rint(image * 255)
    if len(image) == 1:
        return _quantised(levels[0], LUMINANCE, quality)[None].clip(0, 255).round() / 255
    luma, *chroma = np.rint(np.tensordot(_TO_YCC, levels, axes=1))
    planes = [_quantised(luma, LUMINANCE, quality)]
    planes += [_doubled(_quantised(_halved(each), CHROMINANCE, quality, centre=0.0), luma.shape) for each in chroma]
    return np.tensordot(_FROM_YCC, np.stack(planes), axes=1).clip(0, 255).round() / 255


def _quantised(plane: Array, table: np.ndarray, quality: int, centre: float = 128.0) -> Array:
    """A plane [H, W] after the quantisation of its cosine coefficients, with the scaling of the tables that libjpeg uses."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.floor((table * scale + 50) / 100).clip(1, 255)
    height, width = plane.shape
    padded = np.pad(plane - centre, ((0, -height % 8), (0, -width % 8)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // 8, 8, padded.shape[1] // 8, 8).swapaxes(1, 2)
    coefficients = fft.dctn(blocks, axes=(2, 3), norm="ortho")
    decoded = fft.idctn(np.rint(coefficients / steps) * steps, axes=(2, 3), norm="ortho")
    return np.asarray(decoded.swapaxes(1, 2).reshape(padded.shape)[:height, :width] + centre)


def _halved(plane: Array) -> Array:
    """Means over 2x2 pixels, the last row and column repeated where their number is odd."""
    even = np.pad(plane, ((0, plane.shape[0] % 2), (0, plane.shape[1] % 2)), mode="edge")
    return np.asarray(even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3)))


def _doubled(plane: Array, shape: tuple[int, int]) -> Array:
    """The plane at twice its size by linear interpolation between pixel centres, cut to `shape`."""
    where = np.meshgrid(*((np.arange(n) - 0.5) / 2 for n in shape), indexing="ij")
    return np.asarray(ndimage.map_coordinates(plane, where, order=1, mode="nearest"))
