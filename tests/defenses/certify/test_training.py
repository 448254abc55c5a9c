"""Training on interval bounds makes networks that certify something, and its bounds are those of the certificates."""

from __future__ import annotations

import pytest
import torch

from trustsnn.blocks import frozen
from trustsnn.defenses.certify import S_IBP, GaussianNoise, Verified, certify
from trustsnn.defenses.certify.intervals import Interval, propagate
from trustsnn.defenses.certify.layers import layers_of
from trustsnn.defenses.certify.training import surrogate_spike
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig, train


def test_a_network_trained_on_bounds_certifies_and_one_that_is_not_does_not(certified_model, digits_train, digits_test):
    plain = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.25, norm="none", steps=3)
    train(plain, digits_train, TrainConfig(epochs=6, batch_size=64, learning_rate=4e-3))
    figures = {}
    for name, model in (("plain", plain), ("certified", certified_model)):
        content = certify(model, digits_test.take(60), Verified(method="ibp", largest=0.05, rounds=0), radii=[0.05])
        figures[name] = (content["correct"]["value"], content["curve"][0]["value"])
    assert figures["plain"][0] > 0.9
    assert figures["plain"][1] < 0.1
    assert figures["certified"][0] > 0.85
    assert figures["certified"][1] > 0.5


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_bounds_of_training_are_those_of_the_certificates(norm):
    model = build("conv", input_shape=(1, 8, 8), classes=3, channels=0.1, norm=norm, threshold=0.2)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model(x)  # running statistics
    model.eval()
    box = Interval((x - 0.005)[None], (x + 0.005)[None], torch.zeros_like(x)[None])
    _, training = propagate(layers_of(model, torch.float32), box, spike=surrogate_spike, rounded=False)
    with frozen(model), torch.no_grad():
        _, exact = propagate(layers_of(model, torch.float64), Interval(*(each.double() for each in box)), rounded=False)
    assert training.low.detach().double().numpy() == pytest.approx(exact.low.numpy(), abs=1e-4)
    assert training.high.detach().double().numpy() == pytest.approx(exact.high.numpy(), abs=1e-4)
    assert (exact.high - exact.low).max() > 0.1
    training.high.sum().backward()
    assert all(each.grad is not None and torch.isfinite(each.grad).all() for each in model.parameters())


def test_the_radius_grows_with_the_epoch_by_which_draws_are_named(certified_model):
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    recipe = S_IBP(eps=0.1, ramp=4, share=1.0)
    losses = [
        next(recipe.losses(certified_model, x, torch.arange(4), Draws(0, f"train/{e}", ("a",) * 4)))[0].item()
        for e in (0, 2, 4, 9)
    ]
    assert losses[0] < losses[1] < losses[2] == losses[3]


def test_gaussian_noise_is_clipped_and_keyed():
    x, y = torch.full((2, 1, 8, 8), 0.5), torch.zeros(2).long()
    recipe, draws = GaussianNoise(sigma=0.5), Draws(0, "train/0", ("a", "b"))
    model = build("mlp", input_shape=(1, 8, 8), classes=2, channels=0.1)
    noisy = recipe.inputs(model, x, y, draws)
    assert noisy.min() == 0
    assert noisy.max() == 1
    assert torch.equal(recipe.inputs(model, x[1:], y[1:], draws.select([1])), noisy[1:])


@pytest.mark.parametrize("settings", [{"eps": 0.0}, {"share": 1.5}, {"ramp": 2.5}, {"ramp": -1}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        S_IBP(**settings)


def test_a_network_without_bounds_is_refused():
    model = build("mlp", input_shape=(1, 8, 8), classes=2, channels=0.1, encoder="poisson")
    with pytest.raises(ConfigError, match="encoder 'direct'"):
        next(S_IBP().losses(model, torch.rand(2, 1, 8, 8), torch.zeros(2).long(), Draws(0, "train/0", ("a", "b"))))
