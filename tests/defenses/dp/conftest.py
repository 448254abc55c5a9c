"""A few random images with labels, and small networks with group normalisation whose neurons fire and pass gradients."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def batch():
    """Five images [5, 1, 8, 8], float64, and labels."""
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.arange(5) % 3


@pytest.fixture
def network():
    """Builds a network for such images in float64, no parameter of which is where it began: some begin at 0."""
    from trustsnn.models import build
    from trustsnn.models.onestep import ONE_STEP, build_onestep

    def make(name, **options):
        shared = {"input_shape": (1, 8, 8), "classes": 3, "channels": 0.05, "norm": "group", "threshold": 0.5}
        model = (build_onestep if name in ONE_STEP else build)(name, **{**shared, "surrogate": "atan", **options}).double()
        draws = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
        return model

    return make
