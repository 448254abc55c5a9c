"""Quantised weights, the progressive search for bits, and its random baseline."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from trustsnn.attacks.integrity import BitFlipSearch, random_flips
from trustsnn.attacks.integrity.bands import doubling
from trustsnn.attacks.integrity.bitflips import WIDER
from trustsnn.attacks.integrity.quantised import Bit, Quantised
from trustsnn.attacks.twin import ann_twin
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import STBP, Surrogate
from trustsnn.training import accuracy

NAME = "layers.0.weight"


@pytest.fixture(scope="module")
def known(digits_train):
    return digits_train.take(64, 1)


@pytest.fixture(scope="module")
def held_out(digits_test):
    return digits_test.take(100)


@pytest.fixture(scope="module")
def found(digits_model, known, held_out):
    """What a search gives. Do not change it."""
    return BitFlipSearch(limit=20).run(digits_model, known, held_out)


def test_weights_are_whole_numbers_times_one_scale_a_layer_and_hardly_differ(digits_model):
    quantised = Quantised(digits_model)
    for name, weight in quantised.weights.items():
        codes = weight.detach() / quantised.scales[name]
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
        assert codes.abs().max().round() == 127
        before = dict(digits_model.named_parameters())[name]
        assert (weight - before).abs().max() <= quantised.scales[name] * 0.501
    assert quantised.size == 8 * sum(weight.numel() for weight in quantised.weights.values())


@pytest.mark.parametrize("bits", [4, 8])
def test_a_flip_is_of_one_bit_in_twos_complement_and_changes_the_weight_as_foretold(digits_model, bits):
    quantised, top = Quantised(digits_model, bits), 1 << bits
    weight, scale = quantised.weights[NAME].detach().view(-1), quantised.scales[NAME]
    for place in range(3):
        for bit in range(bits):
            before, change = float(weight[place]), float(quantised.changes(NAME)[bit, place])
            code = round(before / scale) % top
            quantised.flip([Bit(NAME, place, bit)])
            assert round(float(weight[place]) / scale) % top == code ^ (1 << bit)
            assert float(weight[place]) - before == pytest.approx(change, rel=1e-5)
            assert -top // 2 <= round(float(weight[place]) / scale) < top // 2
            quantised.flip([Bit(NAME, place, bit)])
            assert float(weight[place]) == before


def test_few_flips_bring_the_model_down_to_guessing_and_random_ones_do_not(digits_model, found, held_out):
    assert found.unquantised == accuracy(digits_model, held_out)
    assert found.accuracy[0]["value"] > 0.9
    assert found.stopped == "chance"
    assert found.to_chance == len(found.flips) == len(found.accuracy) - 1 <= 20
    assert found.accuracy[-1]["value"] <= found.chance < 0.2
    assert len({flip.bit for flip in found.flips}) == len(found.flips)
    bands = random_flips(digits_model, held_out, len(found.flips), seeds=2)
    assert tuple(band.count for band in bands) == doubling(len(found.flips))
    assert bands[-1].to_dict()["mean"]["value"] > 0.8


def test_the_figures_are_those_of_the_flipped_model(digits_model, found, held_out):
    quantised = Quantised(digits_model)
    for flip, figure in zip(found.flips, found.accuracy[1:], strict=True):
        assert quantised.weight(flip.bit) == flip.before
        quantised.flip([flip.bit])
        assert quantised.weight(flip.bit) == flip.after
        assert accuracy(quantised.model, held_out) == figure


def test_the_first_flip_costs_most_of_the_best_of_each_layer(digits_model, found, known):
    quantised = Quantised(digits_model)
    x, y = (torch.from_numpy(values) for values in known.batch(np.arange(len(known))))
    weights = list(quantised.weights.values())
    losses = {}
    for width in (1.0, WIDER):
        with STBP(Surrogate("triangular", width)).applied(quantised.model):
            gradients = torch.autograd.grad(cross_entropy(quantised.model(x), y), weights)
        for name, gradient in zip(quantised.weights, gradients, strict=True):
            gain = quantised.changes(name) * gradient.flatten()
            bit, place = divmod(int(gain.argmax()), gain.shape[1])
            work = copy.deepcopy(quantised)
            work.flip([Bit(name, place, bit)])
            losses[Bit(name, place, bit)] = cross_entropy(work.model(x), y).item()
    assert found.flips[0].bit == max(losses, key=lambda bit: losses[bit])


def test_the_search_leaves_the_model_as_it_was_and_gives_the_same_again(digits_model, found, known, held_out):
    before = model_hash(digits_model)
    again = BitFlipSearch(limit=2).run(digits_model, known, held_out)
    assert model_hash(digits_model) == before
    assert again.flips == found.flips[:2]
    assert (again.stopped, again.to_chance) == ("limit", None)
    assert json.loads(json.dumps(again.to_dict(), allow_nan=False))["by_layer"]


def test_the_ann_twin_is_searched_through_its_own_gradient(digits_model, known, held_out):
    twin = ann_twin(digits_model)
    search = BitFlipSearch(limit=3)
    assert (search.chosen(twin), len(search.chosen(digits_model))) == ((None,), 2)
    found = search.run(twin, known, held_out)
    assert found.accuracy[-1]["value"] < found.accuracy[0]["value"] - 0.1
    assert all(flip.bit.tensor.startswith("network.layers.") for flip in found.flips)


def test_where_no_gradient_gets_through_no_bit_is_proposed(digits_model, known, held_out):
    far = STBP(Surrogate("rectangular", 1e-9))
    work = copy.deepcopy(digits_model)
    work.layers[-1].weight.data.zero_()
    work.layers[-1].bias.data.zero_()
    with pytest.raises(ConfigError, match="no better than guessing"):
        BitFlipSearch(limit=1).run(work, known, held_out)
    found = BitFlipSearch(limit=3, estimators=(far,)).run(digits_model, known, held_out)
    assert {flip.bit.tensor for flip in found.flips} == {"layers.12.weight"}


class Squared(nn.Module):
    """A linear classifier times the square of its only weight: of w and -w the loss is the same, the gradient is not."""

    spec = ModelSpec("image", (1, 8, 8), 10, 1, "direct", "membrane", False)

    def __init__(self, data):
        super().__init__()
        x, y = (torch.from_numpy(values) for values in data.batch(np.arange(len(data))))
        flat = x.flatten(1)
        self.register_buffer("means", torch.stack([flat[y == each].mean(0) - flat.mean(0) for each in range(10)]))
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, x):
        return self.weight.square() * (x.flatten(1) @ self.means.T)


def test_no_bit_is_flipped_twice(digits_train, known, held_out):
    found = BitFlipSearch(limit=3).run(Squared(digits_train), known, held_out)
    assert [flip.bit for flip in found.flips] == [Bit("weight", 0, 7)]  # from 127 to -1, from where the same bit leads back
    assert (found.flips[0].before, found.flips[0].after) == pytest.approx((1, -1 / 127))
    assert found.stopped == "gradient"
    assert found.to_chance is None


@pytest.mark.parametrize(("settings", "message"), [({"limit": 0}, "at least 1 flip"), ({"estimators": ()}, "1 estimator")])
def test_what_cannot_be_searched(settings, message):
    with pytest.raises(ConfigError, match=message):
        BitFlipSearch(**settings)


def test_weights_have_two_to_sixteen_bits(digits_model):
    with pytest.raises(ConfigError, match="2 to 16 bits"):
        Quantised(digits_model, 1)
