"""Whether a model rounds its input: it answers to images as to the same images rounded, and not as to them rounded elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trustsnn.attacks.verdict import input_rounded
from trustsnn.blocks import predict
from trustsnn.rng import Draws

LEVELS = (*range(2, 34), 64, 65, 101, 128, 129, 255, 256, 257)  # of a pixel; one more than a power of two: that many steps
TRIED = tuple((levels, offset) for levels in LEVELS for offset in (0.0, 0.5))  # rounded to the levels, or cut off between them
SCREENED = 2  # samples on which most of these are ruled out
DRAWS = 8  # of the noise, for those that are left


def of_input(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """Finding on a model that rounds pixels to one of `LEVELS` or cuts them off there, before all else; inside `frozen(model)`.

    Images `x` [B, ...] in [0, 1] are moved by noise of up to one and a half steps (so that rounding does not bring back an image
    of few levels) and rounded to the levels, to the middles between them, and to levels that lie elsewhere for each pixel. All change
    pixels by as much, so that outputs that stay under one of the first two do so under the last, unless the model rounds there itself.
    """
    first = x[:SCREENED]
    before = predict(model, torch.cat([_moved(first, levels) for levels, _ in TRIED]))
    after = predict(model, torch.cat([_rounded(_moved(first, levels), levels, offset) for levels, offset in TRIED]))
    stay = (before == after).all(1).view(len(TRIED), -1).all(1)
    for levels, offset in (tried for tried, stays in zip(TRIED, stay.tolist(), strict=True) if stays):
        elsewhere = np.zeros(0, dtype=bool)
        for draw in range(DRAWS):
            moved = _moved(x, levels, draw)
            before = predict(model, moved)
            if not torch.equal(predict(model, _rounded(moved, levels, offset)), before):
                break
            there = predict(model, _rounded(moved, levels, _uniform(x, "elsewhere", levels, draw)))
            elsewhere = np.append(elsewhere, (there != before).any(1).numpy())
            found = input_rounded(elsewhere, levels, len(TRIED))
            if found:
                return found
            if not elsewhere.any():  # outputs of so few levels that this would take too many draws
                break
    return []


def _moved(x: Tensor, levels: int, draw: int = 0) -> Tensor:
    """Noise of one and a half steps, thrown back at 0 and 1."""
    moved = x + 3 * (_uniform(x, "moved", levels, draw) - 0.5) / (levels - 1)
    return 1 - (moved % 2 - 1).abs()


def _rounded(x: Tensor, levels: int, offset: float | Tensor) -> Tensor:
    steps = levels - 1
    return (((x * steps - offset).round() + offset) / steps).clamp(0, 1)


def _uniform(x: Tensor, what: str, levels: int, draw: int) -> Tensor:
    ids = tuple(map(str, range(len(x))))
    return Draws(0, f"input-rounding/{what}/{levels}/{draw}", ids).uniform(tuple(x.shape[1:]))
