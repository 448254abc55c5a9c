"""Losses that an attack raises, one value a sample, from logits [B, K] and labels [B]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trustsnn.errors import ConfigError


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y, in double precision so that it does not underflow for a confident model."""
    return functional.cross_entropy(logits.double(), y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} z_k - z_y (Carlini & Wagner 2017): positive where the sample is misclassified."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own


LOSSES = {"ce": cross_entropy, "margin": margin}


def check_loss(name: str) -> str:
    """`name` if it is known; ConfigError otherwise."""
    if name not in LOSSES:
        raise ConfigError(f"Unknown loss {name!r}. Known: {', '.join(LOSSES)}.")
    return name
