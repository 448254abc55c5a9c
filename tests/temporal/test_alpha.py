"""Alpha synapses: the closed form against a simulated membrane and SciPy, its gradients against finite differences, and learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import lambertw

from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models import check_contract
from trustsnn.temporal import AlphaNetwork, alpha_spikes, lambert_w
from trustsnn.training import TrainConfig, accuracy, train

THRESHOLD, DECAY, HORIZON = 1.0, 0.8, 9.0


def test_lambert_w_equals_scipy():
    z = torch.cat(
        [
            -torch.logspace(-300, -0.01, 400, dtype=torch.float64) / np.e,
            -1 / np.e + torch.logspace(-9, -1, 100, dtype=torch.float64),
        ]
    )
    assert np.allclose(lambert_w(z).numpy(), lambertw(z.numpy()).real, rtol=1e-9, atol=0)
    assert lambert_w(torch.tensor([-1 / np.e, 0.0], dtype=torch.float64)).tolist() == pytest.approx([-1.0, 0.0], abs=1e-7)


@pytest.fixture
def spikes(drawn):
    """Input times with ties and some silent inputs, weights, and the function that gives the spike times."""

    def draw(seed):
        times, weight, _ = drawn(seed, inputs=15, outputs=8, last=20)
        times = torch.where(times < 17, times / 8, HORIZON)
        return times, weight, lambda t, w: alpha_spikes(t, w, threshold=THRESHOLD, decay=DECAY, horizon=HORIZON)

    return draw


@pytest.mark.parametrize("seed", range(4))
def test_the_closed_form_is_where_the_simulated_membrane_crosses(seed, spikes):
    times, weight, fire = spikes(seed)
    step = 5e-4
    grid = torch.arange(0, HORIZON, step, dtype=torch.float64)
    since = (grid[:, None, None] - times).clamp_min(0)
    above = (since * (-DECAY * since).exp()) @ weight >= THRESHOLD
    simulated = torch.where(above.any(0), grid[above.to(torch.uint8).argmax(0)], HORIZON)
    found = fire(times, weight)
    assert 0.2 < (found < HORIZON).double().mean() < 1
    assert (found - simulated).abs().max() <= step


@pytest.mark.parametrize("seed", range(4))
def test_gradients_equal_finite_differences(seed, spikes):
    times, weight, fire = spikes(seed)
    times = times + torch.rand(times.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 100
    times[0, 0] = HORIZON
    leaves = times.requires_grad_(), weight.requires_grad_()
    fired = fire(*leaves).detach() < HORIZON
    gradients = torch.autograd.grad(fire(*leaves)[fired].sum(), leaves)
    h = 1e-6
    with torch.no_grad():
        for leaf, gradient in zip(leaves, gradients, strict=True):
            for place in range(0, leaf.numel(), 3):
                ends = []
                for change in (h, -2 * h):
                    leaf.view(-1)[place] += change
                    ends.append(fire(*leaves)[fired].sum())
                leaf.view(-1)[place] += h
                assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(gradient.reshape(-1)[place].item(), rel=1e-5, abs=1e-6)


def test_derivatives_are_clipped_and_silent_neurons_pushed():
    times, weight = torch.zeros(4, 1), torch.tensor([[np.e + 1e-4, 0.5]], requires_grad=True)
    for clip, penalty in ((10.0, 0.0), (5.0, 7.0)):
        found = alpha_spikes(times, weight, clip=clip, penalty=penalty, horizon=5.0)
        assert (found[:, 0] < 5).all()
        assert (found[:, 1] == 5).all()
        (gradient,) = torch.autograd.grad(found.sum(), weight)
        assert gradient.tolist() == [[-4 * clip, -penalty]]


def test_a_stronger_input_never_fires_later(spikes):
    times, weight, fire = spikes(0)
    weight = weight.abs()
    before, after = fire(times, weight), fire(times, weight * 1.1)
    assert (after <= before).all()
    assert (after < before).any()


def network(**arguments):
    return AlphaNetwork((1, 8, 8), hidden=24, pulses=3, **arguments)


def test_digits_are_learnt_under_the_contract(digits_train, digits_test):
    model = network()
    train(model, digits_train, TrainConfig(epochs=4, batch_size=24, learning_rate=5e-3, weight_decay=0.0))
    assert accuracy(model, digits_test)["value"] > 0.7
    assert (model.hidden_pulses != network().hidden_pulses).any()
    x = torch.from_numpy(digits_test.batch(range(16))[0])
    assert check_contract(model, x, 10) == []
    trace = model.unroll(x)
    assert torch.equal(trace.logits[0], model(x))
    assert trace.spike_counts["hidden"].shape == (16, 24)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert (gradient[x > 0] != 0).any()
    assert (gradient[x == 0] == 0).all()


def test_bad_settings_and_shapes_are_refused():
    with pytest.raises(ConfigError, match="threshold above 0"):
        AlphaNetwork(threshold=-1.0)
    with pytest.raises(ConfigError, match="hidden=0"):
        AlphaNetwork(hidden=0)
    with pytest.raises(ModelContractError, match="Expected a batch"):
        network()(torch.zeros(2, 3))
