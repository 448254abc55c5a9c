"""Small networks that fire without training, and what they run on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trustsnn.models import build
from trustsnn.rng import Draws


def _firing(scale: float, **options):
    model = build("conv", channels=0.25, seed=0, **options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.mul_(scale)
    return model.eval()


@pytest.fixture
def image_network():
    """A network for images [1, 8, 8] of which a fifth of the neurons fires at each step, and 12 images."""
    return _firing(4.0, input_shape=(1, 8, 8), classes=10), torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def event_network():
    """The same for 4 binary event frames."""
    frames = torch.rand(12, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.2
    return _firing(12.0, input_shape=(4, 2, 8, 8), classes=10, steps=4, domain="events-binary"), frames.float()


@pytest.fixture
def draws_of():
    """The draws of some samples, numbered from 0."""
    return lambda count, seed=0: Draws(seed, "t", tuple(map(str, range(count))))
