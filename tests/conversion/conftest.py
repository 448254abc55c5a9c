"""A small QCFS network on digits, and networks of drawn layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trustsnn.data import from_arrays
from trustsnn.models import ModelSpec, SpikingNetwork, build
from trustsnn.neurons.qcfs import QCFS
from trustsnn.training import TrainConfig, train


@pytest.fixture(scope="session")
def ann(digits_train):
    """L = 7, about 90 % on digits. Do not change it."""
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25, neuron="qcfs", levels=7, threshold=4.0)
    train(model, digits_train, TrainConfig(epochs=3, batch_size=32, learning_rate=8e-3))
    return model


@pytest.fixture(scope="session")
def few(digits_test):
    """60 test digits."""
    return digits_test.take(60)


@pytest.fixture(scope="session")
def drawn():
    return draw_network


def draw_network(seed: int, levels: int, layers: list[dict], *, size: int = 7, batch: int = 6):
    """A QCFS network of `layers` (convolution settings) with drawn weights, statistics and thresholds, and random images.

    Currents reach from far below 0 to far above the threshold.
    """
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    h = torch.zeros(1, 2, size, size)
    for settings in layers:
        given = {key: value for key, value in settings.items() if key not in ("pool", "norm")}
        norm = settings.get("norm", True)
        modules.append(nn.Conv2d(h.shape[1], 4, bias=not norm or bool(torch.rand(()) < 0.5), **given))
        h = modules[-1](h)
        if norm:
            modules.append(_statistics(nn.BatchNorm2d(4, affine=bool(torch.rand(()) < 0.8))))
        modules.append(QCFS(levels, float(torch.rand(()) * 3 + 0.2)))
        if settings.get("pool", False) and min(h.shape[2:]) > 1:
            modules.append(nn.AvgPool2d(2))
            h = modules[-1](h)
    modules += [nn.Flatten(), nn.Linear(h[0].numel(), 5), _statistics(nn.BatchNorm1d(5)), QCFS(levels, 1.3), nn.Linear(5, 3)]
    spec = ModelSpec("image", (2, size, size), 3, 1, "direct", "membrane", False)
    network = SpikingNetwork(nn.Sequential(*modules), spec, {"name": "drawn"}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    x = torch.rand(batch, 2, size, size).numpy()
    return network, from_arrays(x, np.arange(batch) % 3, domain="image", max_count=None, classes=3)


def _statistics(norm):
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 3)
        if norm.affine:
            norm.weight.normal_()
            norm.bias.normal_()
    return norm


@pytest.fixture(scope="session")
def statistics():
    return _statistics


@pytest.fixture(scope="session")
def rectified(digits_train):
    """A ReLU network, about 98 % on digits. Do not change it."""
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25, neuron="relu")
    train(model, digits_train, TrainConfig(epochs=4, batch_size=32, learning_rate=4e-3))
    return model


@pytest.fixture(scope="session")
def samples(digits_train):
    """120 training digits to calibrate by."""
    return digits_train.take(120)
