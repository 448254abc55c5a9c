"""One thread, and small networks with a batch."""

from __future__ import annotations

import pytest
import torch

from trustsnn.models import build
from trustsnn.rng import Draws


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread):
    pass


@pytest.fixture
def tiny():
    """Builds a network of two dense layers for 4 x 4 pixels and 3 classes, in float64; neurons fire."""

    def make(**options):
        given = {"norm": "none", "channels": 0.03, "steps": 4, "threshold": 0.3, **options}
        model = build("mlp", input_shape=(1, 4, 4), classes=3, **given).double()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(2)
        return model

    return make


@pytest.fixture
def batch():
    """8 images [8, 1, 4, 4] in [0, 1] in float64, their labels, and draws."""
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    return x, torch.arange(8) % 3, Draws(5, "train/0", tuple(map(str, range(8))))
