"""Small deep networks that fire."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

FAMILIES = ("resnet-small", "sew-resnet-small", "ms-resnet-small", "spikformer-small", "spikingformer-small", "sdt-small")


@pytest.fixture(params=FAMILIES)
def family(request):
    """The name of the small architecture of each family with branches."""
    return request.param


@pytest.fixture
def lively():
    """Builds a small network, and lets a few steps of training bring its statistics to its data, so that neurons fire; eval mode.
    With the data, 16 images."""

    def make(name, dtype=torch.float32, **options):
        model, x = _lively(name, dtype, tuple(options.items()))
        return copy.deepcopy(model), x

    return make


@cache
def _lively(name, dtype, options):
    from trustsnn.models import build

    model = build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, **dict(options)).to(dtype)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(x), torch.arange(16) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(20):
            model(x)
    optimizer.zero_grad()
    return model.eval(), x
