"""What every image corruption shares: its checks, its constants by image size, and one random stream a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from trustsnn.attacks.corruptions.catalogue import SEVERITIES
from trustsnn.errors import ConfigError, DataError
from trustsnn.rng import Draws, stream

Image = NDArray[np.float64]
Corruption = Callable[[Tensor, int, Draws], Tensor]
SMALL = 64


def check_severity(severity: int) -> int:
    """`severity` if it is 1 to 5; ConfigError otherwise."""
    if type(severity) is not int or severity not in SEVERITIES:
        raise ConfigError(f"Expected a severity of 1 to 5, got {severity!r}.")
    return severity


def check_draws(x: Tensor, draws: Draws) -> None:
    """ConfigError where there is not one id a sample."""
    if len(draws.ids) != len(x):
        raise ConfigError(f"Expected {len(x)} ids, one a sample, got {len(draws.ids)}.")


def corruption(name: str, small: Sequence[Any], large: Sequence[Any]) -> Callable[[Callable[..., Image]], Corruption]:
    """Make `corrupt(x, severity, draws)` of a function of one image [C, H, W], its constants and its random generator.

    `small` holds the constants of CIFAR-10-C for the five severities, used up to 64 pixels a side, `large` those of
    ImageNet-C. Each sample draws from its own stream, keyed by seed, task, corruption and sample id and the same at every
    severity, so severities differ by their constants and not by luck, and no sample depends on its batch.
    """

    def wrap(one: Callable[..., Image]) -> Corruption:
        def corrupt(x: Tensor, severity: int, draws: Draws) -> Tensor:
            check_severity(severity)
            _check_images(x, name)
            check_draws(x, draws)
            constants = (small if max(x.shape[2:]) <= SMALL else large)[severity - 1]
            constants = constants if isinstance(constants, tuple) else (constants,)
            images = x.detach().cpu().double().numpy()
            result = np.empty(images.shape, dtype=np.float32)
            for row, sample_id in enumerate(draws.ids):
                generator: Generator = stream(draws.seed, f"{draws.task}/{name}", sample_id)
                result[row] = np.clip(one(images[row], *constants, generator), 0.0, 1.0)
            return torch.from_numpy(result).to(x.device)

        corrupt.__name__ = corrupt.__qualname__ = one.__name__
        corrupt.__module__, corrupt.__doc__ = one.__module__, one.__doc__
        return corrupt

    return wrap


def _check_images(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        got = f"{list(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"Expected floating-point images [B, 1 or 3, H, W] for the corruption {name!r}, got {got}.")
    if name == "saturate" and x.shape[1] == 1:
        raise ConfigError(
            "The corruption 'saturate' is for colour images [B, 3, H, W]; grey ones have no saturation. Leave it out."
        )
    if not torch.isfinite(x).all() or float(x.min()) < 0 or float(x.max()) > 1:
        raise DataError(f"Expected finite images in [0, 1] for the corruption {name!r}. Put normalisation inside the model.")
