"""Random spike times and weights, and a small trained S4NN."""

from __future__ import annotations

import pytest
import torch

from trustsnn.temporal import S4NN, S4NNConfig, train_s4nn


@pytest.fixture
def drawn():
    def draw(seed, *, batch=5, inputs=30, outputs=7, last=20):
        """Whole input times 0..last with many ties, weights of both signs, and a gradient for the outputs."""
        generator = torch.Generator().manual_seed(seed)
        times = torch.randint(0, last + 1, (batch, inputs), generator=generator).double()
        weight = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64) + 0.2
        return times, weight, torch.randn(batch, outputs, generator=generator, dtype=torch.float64)

    return draw


@pytest.fixture(scope="session")
def trained(digits_train):
    """About 90 % on digits. Do not change it."""
    model = S4NN((1, 8, 8), hidden=80, spread=(20.0, 20.0))
    train_s4nn(model, digits_train, S4NNConfig(epochs=20, learning_rate=1.0, gamma=8))
    return model
