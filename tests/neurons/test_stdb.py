"""STDB against a plain loop over time that autograd differentiates, and in training."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.neurons import Dynamics, fire
from trustsnn.neurons.stdb import STDB
from trustsnn.training import TrainConfig, train


class Spike(torch.autograd.Function):
    """1[u >= V]; backward times the derivative that is given."""

    @staticmethod
    def forward(ctx, distance, derivative):
        ctx.save_for_backward(derivative)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


def plain(current, leak, threshold, dynamics, alpha, beta):
    """Rathi ICLR 2020, section 2.3: a neuron counts the steps since its last spike, from -1000 on."""
    membrane = torch.zeros_like(current[0]) + dynamics.initial * threshold
    last = torch.full_like(current[0], -1000)
    spikes = []
    for t in range(len(current)):
        before = leak * membrane + current[t]
        spike = Spike.apply(before - threshold, alpha * torch.exp(-beta * (t - last)))
        last = torch.where(spike > 0, t, last)
        reset = spike.detach() if dynamics.detach_reset else spike
        membrane = before * (1 - reset) if dynamics.reset == "hard" else before - reset * threshold
        spikes.append(spike)
    return torch.stack(spikes)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.integers(1, 9),
    leak=st.floats(0, 1),
    threshold=st.floats(0.05, 3),
    reset=st.sampled_from(["hard", "soft"]),
    detach=st.booleans(),
    initial=st.sampled_from([0.0, 0.5]),
    alpha=st.floats(0.05, 2),
    beta=st.floats(0, 0.5),
    seed=st.integers(0, 999),
)
def test_stdb_equals_the_plain_loop(steps, leak, threshold, reset, detach, initial, alpha, beta, seed):
    generator = torch.Generator().manual_seed(seed)
    current, weight = torch.randn(2, steps, 3, 7, dtype=torch.float64, generator=generator)
    leaves = [t.double().requires_grad_() for t in (current + 0.5, torch.tensor(leak), torch.tensor(threshold))]
    dynamics = Dynamics(leak, threshold, reset, detach, initial=initial)
    expected = plain(*leaves, dynamics, alpha, beta)
    got, _ = fire(*leaves, dynamics, STDB(alpha, beta))
    assert torch.equal(got, expected)
    for mine, theirs in zip(*(torch.autograd.grad((s * weight).sum(), leaves) for s in (got, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_stdb_by_hand():
    fired = torch.tensor([False, True, False, False, True]).view(5, 1, 1)
    factors = STDB(0.3, 0.01).derivatives(fired, torch.float64).flatten().tolist()
    since = [1000, 1001, 1, 2, 3]
    assert factors == pytest.approx([0.3 * math.exp(-0.01 * steps) for steps in since])


def test_stdb_trains_another_network_than_the_surrogate(digits_train):
    states = []
    for own in (True, False):
        model = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, leak=1.0, reset="soft", steps=6)
        config = TrainConfig(epochs=2, batch_size=32, learning_rate=5e-3)
        if own:
            rows = train(model, digits_train, config)
        else:
            with STDB(0.3, 0.01).applied(model):
                rows = train(model, digits_train, config)
        states.append(model.layers[1].weight)
        assert rows[-1]["train_accuracy"] > 0.5
    assert not torch.equal(*states)


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"alpha": math.inf}, {"beta": -1.0}, {"beta": math.nan}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError, match="Expected alpha above 0 and beta"):
        STDB(**bad)
