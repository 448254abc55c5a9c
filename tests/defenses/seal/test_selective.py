"""The search for few bits, and folders in which only these are sealed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import trustsnn
from trustsnn.checkpoint import model_hash
from trustsnn.defenses.seal import seal, selective, unseal, verify
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.models.spec import ModelSpec
from trustsnn.training import TrainConfig, accuracy, train


@pytest.fixture(scope="module")
def model(digits_train):
    """A small convolutional network, about nine in ten right. Do not change it."""
    network = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.2, steps=2)
    train(network, digits_train, TrainConfig(epochs=6, batch_size=64, learning_rate=5e-3))
    return network.eval()


@pytest.fixture(scope="module")
def found(model, digits_train):
    """What a search gives. Do not change it."""
    return selective.search(model, digits_train, 40, samples=200)


def test_few_bits_bring_the_model_down_to_guessing_and_random_ones_do_not(model, found, digits_test):
    assert accuracy(model, digits_test)["value"] > 0.8
    assert found.collapsed
    assert len(found.signs) < 40
    assert len({*found.signs}) == len(found.signs)
    after = selective.curve(model, digits_test, found.signs)
    assert sorted(after) == sorted({0, *(n for n in (1, 2, 4, 8, 16, 32) if n <= len(found.signs)), len(found.signs)})
    assert after[0] == accuracy(model, digits_test)
    assert after[len(found.signs)]["value"] < 0.3
    drawn = selective.random_signs(model, len(found.signs))
    assert len({*drawn}) == len(drawn)
    assert selective.curve(model, digits_test, drawn)[len(drawn)]["value"] > 0.6


def test_the_search_leaves_the_model_as_it_was_and_gives_the_same_again(model, found, digits_train):
    before = model_hash(model)
    again = selective.search(model, digits_train, 40, samples=200)
    assert model_hash(model) == before
    assert again == found
    short = selective.search(model, digits_train, 2, samples=200)
    assert short.signs == found.signs[:2]
    assert not short.collapsed


def test_the_first_bit_is_the_one_of_its_tensor_that_costs_most_by_the_gradient(model, found, digits_train):
    chosen = digits_train.take(200, 0)
    x, y = (torch.from_numpy(values) for values in chosen.batch(np.arange(200)))
    name, place = found.signs[0]
    weight = dict(model.named_parameters())[name]
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), weight)
    assert int((-weight * gradient).argmax()) == place


def test_flipping_is_of_signs_and_undoes_itself(model, found):
    work = copy.deepcopy(model)
    selective.flip(work, found.signs)
    pairs = [(name, value, work.state_dict()[name]) for name, value in model.state_dict().items()]
    changed = [(name, place) for name, old, new in pairs for place in (old != new).flatten().nonzero().flatten().tolist()]
    assert sorted(changed) == sorted(map(tuple, found.signs))
    assert all(torch.equal(old.abs(), new.abs()) for _, old, new in pairs)
    selective.flip(work, found.signs)
    assert model_hash(work) == model_hash(model)


def test_a_folder_with_few_sealed_bits(model, found, key, other_key, contents, tmp_path):
    plain = trustsnn.save(model, tmp_path / "plain")
    bits = selective.places(plain / "model.safetensors", found.signs)
    sealed = seal(plain, tmp_path / "sealed", key, bits=bits)
    assert sorted(contents(sealed)) == ["config.json", "manifest.json", "model.safetensors", "model.sealed"]
    assert model_hash(trustsnn.load(sealed, key=key)) == model_hash(model)
    unseal(sealed, tmp_path / "again", key)
    assert contents(tmp_path / "again") == contents(plain)
    assert (verify(sealed, key=key).kind, verify(sealed, key=key).count) == ("bits", len(found.signs))
    for wrong in (None, other_key):
        with pytest.raises(trustsnn.errors.TrustSNNError):
            trustsnn.load(sealed, key=wrong)

    collapsed = copy.deepcopy(model)
    selective.flip(collapsed, found.signs)
    open_to_all = safetensors.torch.load_file(sealed / "model.safetensors")
    assert all(torch.equal(open_to_all[name], value) for name, value in collapsed.state_dict().items())
    differing = np.unpackbits(
        np.frombuffer((sealed / "model.safetensors").read_bytes(), np.uint8)
        ^ np.frombuffer((plain / "model.safetensors").read_bytes(), np.uint8)
    )
    assert differing.sum() == len(found.signs)


class Fixed(nn.Module):
    """A linear model that no gradient reaches."""

    spec = ModelSpec("image", (1, 8, 8), 10, 1, "direct", "membrane", False)

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return x.flatten(1) @ self.weight.detach().T


def test_what_cannot_be_searched(digits_train, model):
    x, y = digits_train.batch(np.arange(len(digits_train)))
    pixels, labels = torch.from_numpy(x).flatten(1), torch.from_numpy(y)
    means = torch.stack([pixels[labels == each].mean(0) - pixels.mean(0) for each in range(10)])
    for wrong, limit, message in (
        (Fixed(means), 5, "no gradient"),
        (Fixed(-means), 5, "no better than guessing"),
        (nn.Flatten(), 5, "no weight matrix"),
        (model, 0, "at least 1 bit"),
    ):
        with pytest.raises(ConfigError, match=message):
            selective.search(wrong, digits_train, limit, samples=100)
