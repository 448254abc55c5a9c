"""How near reconstructed images come to the originals: PSNR, SSIM, and which of a batch is which."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import conv2d

from trustsnn.errors import ConfigError
from trustsnn.statistics import median

EXACT = 200.0
"""What stands for the infinite PSNR of equal images, dB; float32 in [0, 1] reaches about 150."""
_WINDOW, _SIGMA = 11, 1.5


def psnr(found: Tensor, original: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image [B, C, H, W] in [0, 1], dB: -10 log10 of the mean squared error, at most `EXACT`. [B]"""
    error = (_pair(found, original) - original.double()).square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(10 ** (-EXACT / 10)))).clamp(0, EXACT)


def ssim(found: Tensor, original: Tensor) -> Tensor:
    """Structural similarity of each image [B, C, H, W] in [0, 1] (Wang 2004): a Gaussian window of 11 x 11 pixels and sigma 1.5, of smaller
    images the largest odd one that fits; the mean over its places inside the image and over channels, in [-1, 1]. [B]"""
    a, b = _pair(found, original), original.double()
    window = _window(min(_WINDOW, *a.shape[2:]), a.shape[1])

    def mean(values: Tensor) -> Tensor:
        return conv2d(values, window, groups=a.shape[1])

    first, second = mean(a), mean(b)
    spread_a, spread_b = mean(a * a) - first.square(), mean(b * b) - second.square()
    together = mean(a * b) - first * second
    c1, c2 = 0.01**2, 0.03**2
    value = (
        (2 * first * second + c1) * (2 * together + c2) / ((first.square() + second.square() + c1) * (spread_a + spread_b + c2))
    )
    return value.flatten(1).mean(1).clamp(-1, 1)


def matched(found: Tensor, original: Tensor) -> NDArray[np.int64]:
    """Which reconstruction belongs to each original [B], one each, so that the sum of squared errors is least."""
    cost = torch.cdist(_pair(found, original).flatten(1), original.double().flatten(1)).square()
    rows, columns = linear_sum_assignment(cost.numpy())
    order: NDArray[np.int64] = np.empty(len(rows), dtype=np.int64)
    order[columns] = rows
    return order


class Spread(TypedDict):
    """A median with its 95 % interval and the number of values."""

    value: float
    low: float
    high: float
    count: int


def spread(values: Tensor, least: float, most: float) -> Spread:
    """The median of values in [least, most]. Its interval is between two of them; with 5 values or fewer it is all of [least, most]."""
    if values.numel() == 0:
        raise ConfigError("Expected at least one image to compare.")
    found = median(sorted((values.double() - least).tolist()))
    value, low, high = (min(each + least, most) for each in found)
    return {"value": value, "low": low, "high": high, "count": values.numel()}


def _pair(found: Tensor, original: Tensor) -> Tensor:
    if found.shape != original.shape or found.dim() != 4 or not len(found):
        raise ConfigError(
            f"Expected images [B, C, H, W] and as many originals, got {list(found.shape)} and {list(original.shape)}."
        )
    return found.double()


def _window(size: int, channels: int) -> Tensor:
    size -= 1 - size % 2
    at = torch.arange(size, dtype=torch.float64) - size // 2
    row = torch.exp(-at.square() / (2 * _SIGMA**2))
    window = row[:, None] * row
    return (window / window.sum()).expand(channels, 1, size, size)
