"""Neurons with parameters of their own against each neuron alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from trustsnn.attacks.estimators import estimator
from trustsnn.blocks import frozen, input_gradient
from trustsnn.errors import ConfigError
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.mismatch import Mismatch
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.models import build
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate
from trustsnn.neurons.evolving import EvolvingLeak
from trustsnn.neurons.mismatched import Mismatched
from trustsnn.rng import Draws

LAYER = Layer(Chip(), "1")
DYNAMICS = [
    Dynamics(leak=0.5),
    Dynamics(leak=1.0, reset="soft", initial=0.5),
    Dynamics(leak=0.75, reset="soft", detach_reset=True, comparator=">"),
    Dynamics(leak=0.25, gain="leaky", initial=0.25, detach_reset=True),
]
SHAPE = (3, 2)


@pytest.fixture(params=DYNAMICS, ids=["hard", "soft", "detached", "leaky"])
def neuron(request):
    return Mismatch().neuron(SpikingNeuron(request.param, Surrogate("atan")), LAYER)


@pytest.fixture
def current():
    return torch.rand((5, 4, *SHAPE), generator=torch.Generator().manual_seed(0)) * 1.6


def alone(neuron, place):
    """The neuron at `place`, a layer of its own."""
    leak, threshold = (float(each[place]) for each in neuron.of_each(torch.zeros(1, 1, *SHAPE)))
    return SpikingNeuron(replace(neuron.dynamics, leak=leak, threshold=threshold), Surrogate("atan"))


def each_alone(neuron, current, run):
    return torch.stack([run(alone(neuron, place), current[:, :, *place]) for place in np.ndindex(SHAPE)], -1)


@pytest.mark.parametrize("given", [5, 1])
def test_each_neuron_runs_as_it_would_alone(neuron, current, given):
    mine, theirs = (current[:given].clone().requires_grad_() for _ in range(2))
    spikes = neuron.fire(mine, 5)
    expected = each_alone(neuron, theirs, lambda single, x: single.fire(x, 5)).unflatten(-1, SHAPE)
    assert 0.1 < float(spikes.detach().mean()) < 0.9
    assert torch.equal(spikes, expected)
    weight = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((s * weight).sum(), x)[0] for s, x in ((spikes, mine), (expected, theirs))]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert gradients[0].any()
    distances = each_alone(neuron, theirs, lambda single, x: single.distances(x, single.fire(x, 5))).unflatten(-1, SHAPE)
    torch.testing.assert_close(neuron.distances(mine, spikes), distances)


def test_the_steps_one_part_after_the_other_give_the_same_spikes(neuron, current):
    whole, after = neuron.fire(current), None
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        spikes, after = neuron.resume(current[part], part.stop - part.start, after)
        assert torch.equal(spikes, whole[part])


def test_without_deviation_neurons_are_those_of_the_network(neuron, current):
    plain = SpikingNeuron(neuron.dynamics)
    assert torch.equal(Mismatch(deviation=0.0).neuron(plain, LAYER)(current), plain(current))
    assert not torch.equal(neuron(current), plain(current))


def test_parameters_deviate_as_they_should():
    leak, threshold = (
        Mismatch().neuron(SpikingNeuron(Dynamics(leak=0.5, threshold=2.0)), LAYER).of_each(torch.zeros(1, 1, 200_000))
    )
    for factors in (threshold / 2, leak.log() / np.log(0.5)):
        assert float(factors.mean()) == pytest.approx(1, rel=0.01)
        assert float(factors.std()) == pytest.approx(0.1, rel=0.01)
    assert abs(float(torch.corrcoef(torch.stack([leak, threshold]))[0, 1])) < 0.02
    wild = (
        Mismatch(deviation=30.0).neuron(SpikingNeuron(Dynamics(leak=0.5, threshold=2.0)), LAYER).of_each(torch.zeros(1, 1, 9_000))
    )
    assert float(wild[0].max()) == 1
    assert float(wild[1].min()) == pytest.approx(0.02)


def test_weights_deviate_where_it_is_asked_for():
    weight = torch.full((500, 400), -2.0)
    assert torch.equal(Mismatch().weights(weight, LAYER), weight)
    found = Mismatch(deviation=0.6, synapses=True).weights(weight, LAYER)
    assert float(found.mean()) == pytest.approx(-2, rel=0.01)
    assert float(found.std()) == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize("name", ["pdsg", "assg", "bptr", "rga", "hart"])
def test_a_gradient_estimator_reaches_the_input_of_a_network_on_the_chip(name):
    network = deploy(build("conv", input_shape=(1, 8, 8), classes=10, channels=0.125, threshold=0.02), [Mismatch()])
    x, draws = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(0)), Draws(0, "attack", ("a", "b"))
    loss = partial(torch.nn.functional.cross_entropy, reduction="none")
    with frozen(network):
        own = input_gradient(network, x, torch.tensor([0, 1]), loss, draws)
        with estimator(name).applied(network):
            other = input_gradient(network, x, torch.tensor([0, 1]), loss, draws)
    assert torch.equal(own.logits, other.logits)
    assert own.direction.any()
    assert other.direction.any()
    assert not torch.allclose(own.direction, other.direction)


@pytest.mark.parametrize("other", [EvolvingLeak(4, Dynamics()), Mismatched(SpikingNeuron(), lambda shape: (None, None))])
def test_other_neurons_are_refused(other):
    with pytest.raises(ConfigError, match=rf"mismatch.*{type(other).__name__} at '1'"):
        Mismatch().neuron(other, LAYER)
