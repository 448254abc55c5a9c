"""Small networks on digits that certificates are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trustsnn.blocks import frozen
from trustsnn.defenses.certify import S_IBP, GaussianNoise, Rate, Smoothing, Verified, certify
from trustsnn.models import build
from trustsnn.neurons import SpikingNeuron
from trustsnn.training import TrainConfig, train


def trained(data, name, epochs, recipe=None, **settings):
    model = build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, **settings)
    train(model, data, TrainConfig(epochs=epochs, batch_size=64, learning_rate=4e-3), recipe=recipe)
    return model


@pytest.fixture(scope="session")
def certified_model(digits_train):
    """An mlp of digits trained on interval bounds. Do not change it."""
    return trained(digits_train, "mlp", 12, S_IBP(eps=0.06, ramp=7), norm="none", steps=3)


@pytest.fixture(scope="session")
def conv_model(digits_train):
    """A convolutional network trained under Gaussian noise. Do not change it."""
    return trained(digits_train, "conv", 4, GaussianNoise(sigma=0.15), steps=2)


@pytest.fixture(scope="session")
def coded_model(digits_train):
    """A Poisson-coded mlp. Do not change it."""
    return trained(digits_train, "mlp", 3, encoder="poisson", steps=2)


@pytest.fixture(scope="session")
def models(certified_model, conv_model, coded_model):
    """The model of each method."""
    return {"smoothing": conv_model, "rate": coded_model, "ibp": certified_model, "crown": certified_model}


@pytest.fixture(scope="session")
def few(digits_test):
    return digits_test.take(8)


@pytest.fixture(scope="session")
def contents(models, few):
    """The content of a certificate file by method."""
    methods = (
        Smoothing(sigma=0.15, draws=200, selection=20),
        Rate(draws=200, selection=20),
        Verified(method="ibp", rounds=3),
        Verified(method="crown", rounds=3),
    )
    return {method.name: certify(models[method.name], few, method) for method in methods}


def tiny(**settings):
    """A random network of two pixels, three classes and a few neurons, whose layers spike at some inputs and not at others."""
    dynamics = {name: settings.pop(name) for name in ("comparator", "gain") if name in settings}
    model = build(
        settings.pop("name", "mlp"),
        input_shape=(1, 1, 2),
        classes=3,
        channels=settings.pop("channels", 0.02),
        norm="none",
        **settings,
    )
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(3)
    for module in model.modules():
        if isinstance(module, SpikingNeuron):
            module.dynamics = replace(module.dynamics, **dynamics)
    return model


KINDS = [
    {"reset": "hard", "seed": 2},
    {"reset": "soft", "seed": 5, "steps": 6},
    {"reset": "hard", "comparator": ">", "initial": 0.5, "seed": 7},
    {"reset": "soft", "gain": "leaky", "leak": 0.7, "threshold": 0.4, "seed": 5},
    {"reset": "soft", "readout": "spike-count", "leak": 1.0, "seed": 7},
]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def tiny_model(request):
    model = tiny(**request.param)
    with frozen(model), torch.no_grad():
        yield model
