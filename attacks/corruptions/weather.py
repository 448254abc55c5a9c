"""Weather, light and dirt on the lens (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from trustsnn.attacks.corruptions.base import Image, corruption
from trustsnn.attacks.corruptions.textures import Array, grey, motion_blur_along, plasma_fractal, smoothed, zoomed

WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255
ICE = np.array([0.80, 0.88, 0.96])


def _coloured(layer: Array, colour: Array, image: Image) -> Image:
    """A layer [H, W] in a colour, as an image with the channels of `image`."""
    tint = colour if len(image) == 3 else grey(colour[:, None, None]).reshape(1)
    return layer * tint[:, None, None]


@corruption(
    "snow",
    (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)
def snow(
    image: Image,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
    generator: Generator,
) -> Image:
    """Flakes (zoomed normal noise above a threshold, streaked by motion) added twice over a whitened scene."""
    flakes = zoomed(mean + deviation * generator.standard_normal(image.shape[1:]), zoom)
    flakes = np.where(flakes < threshold, 0.0, flakes).clip(0, 1)
    flakes = motion_blur_along(flakes, radius, sigma, generator.uniform(-135, -45))
    whitened = kept * image + (1 - kept) * np.maximum(image, 1.5 * grey(image) + 0.5)
    return whitened + flakes + flakes[::-1, ::-1]


@corruption(
    "frost",
    ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
def frost(image: Image, kept: float, ice: float, generator: Generator) -> Image:
    """kept * x + ice * texture. The benchmark pastes photographs of frost; none are shipped here, so the texture is
    procedural: bright ridges of two plasma fractals (needles) over a cloudy third (rime), in a bluish white. Figures on
    frost are therefore not comparable with published ones."""
    needles, more, rime = (plasma_fractal(image.shape[1:], decay, generator) for decay in (1.4, 1.6, 1.8))
    ridges = np.maximum(1 - np.abs(2 * needles - 1), 1 - np.abs(2 * more - 1)) ** 3
    return kept * image + ice * _coloured((0.4 + 0.4 * ridges + 0.3 * rime).clip(0, 1), ICE, image)


@corruption(
    "fog",
    ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
def fog(image: Image, thickness: float, decay: float, generator: Generator) -> Image:
    """(x + thickness * plasma) * max x / (max x + thickness)."""
    brightest = image.max()
    haze = thickness * plasma_fractal(image.shape[1:], decay, generator)
    return np.asarray((image + haze) * brightest / (brightest + thickness))


@corruption("brightness", (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(image: Image, raised: float, generator: Generator) -> Image:
    """The HSV value, which is the largest channel, raised by `raised`; hue and saturation stay."""
    value = image.max(0)
    brighter = (value + raised).clip(0, 1)
    return np.asarray(np.where(value > 0, image / np.where(value > 0, value, 1.0), 1.0) * brighter)


@corruption(
    "saturate",
    ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
)
def saturate(image: Image, factor: float, offset: float, generator: Generator) -> Image:
    """The HSV saturation S = (max - min) / max as factor * S + offset; hue and value stay (a grey pixel has hue red)."""
    value = image.max(0)
    saturation = np.where(value > 0, (value - image.min(0)) / np.where(value > 0, value, 1.0), 0.0)
    wanted = (factor * saturation + offset).clip(0, 1)
    grey_depth = value * np.array([0.0, 1.0, 1.0])[:, None, None]
    depth = np.where(saturation > 0, (value - image) / np.where(saturation > 0, saturation, 1.0), grey_depth)
    return np.asarray(value - wanted * depth)


@corruption(
    "spatter",
    (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    ),
)
def spatter(
    image: Image,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
    generator: Generator,
) -> Image:
    """Drops where smoothed normal noise passes a threshold: pale water, lit by its relief, or brown mud that covers."""
    liquid = smoothed(mean + deviation * generator.standard_normal(image.shape[1:]), sigma)
    liquid = np.where(liquid < threshold, 0.0, liquid)
    if mud:
        cover = smoothed((liquid > threshold).astype(np.float64), strength)
        cover = np.where(cover < 0.8, 0.0, cover)
        return image * (1 - cover) + _coloured(cover, MUD, image)
    light = liquid * _relief(liquid > 0)
    return image + _coloured(strength * light / max(light.max(), 1e-12), WATER, image)


def _relief(drops: np.ndarray) -> Array:
    """How drops [H, W] catch light from one corner: an embossed, equalised distance to their outlines."""
    outline = drops & ~ndimage.binary_erosion(drops)
    distance = np.minimum(ndimage.distance_transform_edt(~outline), 20.0) if outline.any() else np.zeros(drops.shape)
    distance = ndimage.uniform_filter(distance, 3, mode="mirror")
    ordered = np.sort(distance, axis=None)
    equalised = np.searchsorted(ordered, distance, side="right") / distance.size
    embossed = ndimage.correlate(equalised, np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror")
    return np.asarray(ndimage.uniform_filter(embossed.clip(0, 1), 3, mode="mirror"))
