"""What all twins of weights and neurons have in common: chips, settings, and a network that still classifies."""

from __future__ import annotations

import copy

import pytest
import torch

from trustsnn.errors import ConfigError
from trustsnn.hardware.choose import twin
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.neurons.estimator import neurons_of
from trustsnn.training.evaluate import accuracy

MILD_AND_ABSURD = {
    "pcm": ({"time": 3600.0}, {"program_noise": 100.0}),
    "rram": ({"noise": 0.5}, {"noise": 100.0}),
    "sram": ({"ber": 1e-4, "noise": 0.005}, {"ber": 0.5}),
    "stuck-at": ({"sa0": 0.02, "sa1": 0.001}, {"sa0": 0.5, "sa1": 0.5}),
    "mismatch": ({"synapses": True}, {"deviation": 100.0, "synapses": True}),
}
BAD = [
    ("pcm", {"time": -1.0}),
    ("pcm", {"time": float("nan")}),
    ("pcm", {"time": 1e12}),
    ("pcm", {"compensate": 1}),
    ("pcm", {"read_noise": -0.1}),
    ("rram", {"model": "wan"}),
    ("rram", {"model": "generic", "sigma": -0.1}),
    ("rram", {"model": "milo", "sigma": 0.2}),
    ("rram", {"noise": True}),
    ("sram", {"bits": 6}),
    ("sram", {"bits": 8.0}),
    ("sram", {"ber": 1.5}),
    ("sram", {"noise": -1.0}),
    ("stuck-at", {"sa0": -0.1}),
    ("stuck-at", {"sa0": 0.6, "sa1": 0.6}),
    ("mismatch", {"deviation": float("inf")}),
    ("mismatch", {"synapses": "yes"}),
]
names = pytest.mark.parametrize("name", MILD_AND_ABSURD)


def state(network):
    """Weights, and leak and threshold of each neuron of a current of four."""
    return [
        *network.parameters(),
        *(v for n in neurons_of(network) if hasattr(n, "of_each") for v in n.of_each(torch.ones(1, 1, 4))),
    ]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


@names
def test_a_chip_is_the_same_each_time_and_unlike_another(name, digits_model):
    mild = [twin(name, **MILD_AND_ABSURD[name][0])]
    before = copy.deepcopy(digits_model.state_dict())
    first, again, other = (deploy(digits_model, mild, Chip(number)) for number in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, deploy(digits_model, mild, Chip(3, seed=1)))
    assert all(torch.equal(value, before[key]) for key, value in digits_model.state_dict().items())


@names
def test_two_layers_of_a_chip_are_drawn_apart(name):
    deviating = twin(name, **MILD_AND_ABSURD[name][1])
    weight = torch.ones(20, 20)
    one, other = (deviating.weights(weight, Layer(Chip(), layer)) for layer in ("0", "3"))
    assert not torch.equal(one, other)


@names
def test_a_deployed_network_classifies_with_mild_noise_and_no_more_with_absurd_noise(name, digits_model, digits_test):
    data = digits_test.take(200)
    mild, absurd = (deploy(digits_model, [twin(name, **settings)]) for settings in MILD_AND_ABSURD[name])
    found = accuracy(mild, data)["value"], accuracy(absurd, data)["value"]
    assert found[0] > 0.8
    assert found[1] < 0.3


@pytest.mark.parametrize(("name", "settings"), BAD)
def test_settings_out_of_range_are_refused(name, settings):
    with pytest.raises(ConfigError, match=rf"twin '{name}'.*{list(settings)[-1]}|{list(settings)[-1]}.*twin '{name}'"):
        twin(name, **settings)


@names
def test_a_twin_describes_itself_in_plain_values(name):
    described = twin(name).describe()
    assert described["name"] == name
    assert all(type(value) in (int, float, bool, str) for value in described.values())
    assert twin(**described) == twin(name)
