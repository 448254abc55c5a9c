"""Random changes of a training batch, drawn per sample so that they do not depend on the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from trustsnn.errors import ConfigError
from trustsnn.rng import Draws

AUGMENTATIONS = {
    "none": "the images as they are",
    "shift": "moved by up to an eighth of the side, zeros moving in",
    "shift-flip": "moved, and mirrored left to right half of the time",
}


def augment(name: str, x: Tensor, draws: Draws) -> Tensor:
    """`x` [B, ..., H, W] changed as `name` says, each sample by its own draws."""
    if name not in AUGMENTATIONS:
        raise ConfigError(f"Unknown augmentation {name!r}. Known: {', '.join(AUGMENTATIONS)}.")
    if name == "none":
        return x
    height, width = x.shape[-2:]
    reach = (height // 8, width // 8)
    uniform = draws.uniform((3,))
    padded = torch.nn.functional.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    moved = torch.empty_like(x)
    for row, (u, v, flip) in enumerate(uniform.tolist()):
        top, left = int(u * (2 * reach[0] + 1)), int(v * (2 * reach[1] + 1))
        sample = padded[row, ..., top : top + height, left : left + width]
        moved[row] = sample.flip(-1) if name == "shift-flip" and flip < 0.5 else sample
    return moved
