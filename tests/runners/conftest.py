"""What several tests of audits share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def files():
    """Reads every file of a run but the one that holds times."""

    def read(folder: Path) -> dict[str, bytes]:
        found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file() and p.name != "timings.jsonl"}
        return {name: path.read_bytes() for name, path in found.items()}

    return read


@pytest.fixture(scope="session")
def event_model():
    """A convolutional network on events:digits with four frames, about 90 %. Do not change it."""
    from trustsnn.data import load
    from trustsnn.models import build
    from trustsnn.training import TrainConfig, train

    data = load("events:digits", "train", frames=4)
    model = build("conv", input_shape=data.sample_shape, classes=10, steps=4, domain=data.domain, channels=0.25)
    train(model, data, TrainConfig(epochs=5, batch_size=32, learning_rate=4e-3))
    return model
