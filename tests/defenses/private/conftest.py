"""A small ReLU network on digits, and synthetic images from it."""

from __future__ import annotations

import pytest

from trustsnn.defenses.private import Synthesis, synthesise
from trustsnn.models import build
from trustsnn.training import TrainConfig, train

HOW = Synthesis(samples=200, iterations=80, learning_rate=0.03, part=64)


@pytest.fixture(scope="session")
def ann(digits_train):
    """About 98 % on digits. Do not change it."""
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25, neuron="relu")
    train(model, digits_train, TrainConfig(epochs=4, batch_size=32, learning_rate=4e-3))
    return model


@pytest.fixture(scope="session")
def how():
    return HOW


@pytest.fixture(scope="session")
def made(ann, tmp_path_factory):
    """A folder that holds the synthetic images, to be copied."""
    folder = tmp_path_factory.mktemp("private")
    synthesise(ann, HOW, folder / "synthetic")
    return folder


@pytest.fixture(scope="session")
def images(ann, made):
    return synthesise(ann, HOW, made / "synthetic")
