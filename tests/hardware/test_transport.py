"""Spikes lost and moved: rates against binomial intervals, moves against the discretised normal, gradients against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare, norm

from trustsnn.errors import ConfigError
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.transport import Jitter, SpikeLoss
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.models import build

LAYER = Layer(Chip(), "2")


@pytest.mark.parametrize("probability", [0.01, 0.3])
def test_spikes_are_lost_at_their_rate(probability, draws_of):
    spikes = (torch.rand(4 * 50, 3, 20, 20, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    arrived = SpikeLoss(probability=probability).transport(LAYER, 4)(spikes, range(4), draws_of(50))
    assert (arrived <= spikes).all()
    assert set(arrived.unique().tolist()) == {0.0, 1.0}
    sent, lost = int(spikes.sum()), int((spikes - arrived).sum())
    interval = binomtest(lost, sent).proportion_ci(0.999)
    assert interval.low < probability < interval.high
    first, second = (spikes - arrived).unflatten(0, (4, 50))[:2]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("twin", [SpikeLoss(probability=0.0), Jitter(deviation=0.0)])
def test_nothing_is_drawn_where_nothing_happens(image_network, twin):
    chip = deploy(image_network[0], [twin])
    assert not chip.spec.stochastic


def test_everything_can_be_lost_and_the_mean_is_known(draws_of):
    spikes = torch.ones(8, 5)
    assert SpikeLoss(probability=1.0).transport(LAYER, 2)(spikes, range(2), draws_of(4)).sum() == 0
    assert SpikeLoss(probability=0.25).transport(LAYER, 2).over_time()(spikes).unique().tolist() == [0.75]


def test_the_gradient_of_a_loss_is_that_of_the_spikes_that_arrive(draws_of):
    spikes = torch.ones(6, 50, requires_grad=True)
    arrived = SpikeLoss(probability=0.5).transport(LAYER, 2)(spikes, range(2), draws_of(3))
    (arrived * torch.arange(50.0)).sum().backward()
    assert torch.equal(spikes.grad, arrived.detach() * torch.arange(50.0))


@pytest.mark.parametrize("deviation", [0.4, 1.0, 2.5])
def test_moves_are_a_rounded_normal(deviation, draws_of):
    steps, middle, count = 41, 20, 100
    spikes = torch.zeros(steps, count, 500)
    spikes[middle] = 1
    arrived = Jitter(deviation=deviation).transport(LAYER, steps)(spikes.flatten(0, 1), range(steps), draws_of(count))
    arrived = arrived.unflatten(0, (steps, count))
    assert torch.equal(arrived.sum(0), torch.ones(count, 500))
    edges = norm.cdf((np.arange(steps + 1) - middle - 0.5) / deviation)
    expected = np.diff(edges) * count * 500
    often = expected > 5
    observed = arrived.sum((1, 2)).numpy()
    due = expected[often] * observed[often].sum() / expected[often].sum()
    assert chisquare(observed[often], due).pvalue > 1e-3
    assert observed[~often].sum() <= 30


def test_spikes_stay_within_the_steps_and_meet_as_one(draws_of):
    steps, count, deviation = 5, 60, 1.5
    spikes = torch.zeros(steps, count, 400)
    spikes[0] = 1
    jitter = Jitter(deviation=deviation).transport(LAYER, steps)
    arrived = jitter(spikes.flatten(0, 1), range(steps), draws_of(count)).unflatten(0, (steps, count))
    assert torch.equal(arrived.sum(0), torch.ones(count, 400))
    interval = binomtest(int(arrived[0].sum()), count * 400).proportion_ci(0.999)
    assert interval.low < norm.cdf(0.5 / deviation) < interval.high  # all that would come earlier comes at once
    crowd = jitter(torch.ones(steps * count, 400), range(steps), draws_of(count)).unflatten(0, (steps, count))
    assert set(crowd.unique().tolist()) == {0.0, 1.0}
    assert int(crowd.sum(0).min()) >= 1
    assert int(crowd.sum(0).max()) <= steps
    assert float(crowd.sum()) < steps * count * 400


def test_gradients_come_back_from_where_a_spike_went(draws_of):
    steps, count, neurons = 6, 4, 30
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(steps, count, neurons, generator=generator) < 0.4).float().requires_grad_()
    value = torch.rand(steps, count, neurons, generator=generator)
    arrived = Jitter(deviation=2.0).transport(LAYER, steps)(spikes.flatten(0, 1), range(steps), draws_of(count))
    (arrived.unflatten(0, (steps, count)) * value).sum().backward()
    moves = np.rint(2.0 * draws_of(count).normal((steps, neurons)).numpy())
    expected, places = np.zeros((steps, count, neurons)), np.zeros((steps, count, neurons))
    for sample in range(count):
        for step in range(steps):
            for neuron in range(neurons):
                then = min(max(step + int(moves[sample, step, neuron]), 0), steps - 1)
                expected[step, sample, neuron] = value[then, sample, neuron]
                if spikes[step, sample, neuron]:
                    places[then, sample, neuron] = 1
    np.testing.assert_array_equal(arrived.detach().unflatten(0, (steps, count)).numpy(), places)
    np.testing.assert_allclose(spikes.grad.numpy(), expected, rtol=1e-6)


def test_jitter_takes_all_time_steps_at_once(image_network, draws_of):
    network, images = image_network
    chip = deploy(network, [Jitter()])
    with pytest.raises(ConfigError, match="all of them at once"):
        chip.part(images[:2], range(2), {}, draws_of(2))


def test_a_network_that_counts_its_last_spikes_keeps_them():
    network = build("mlp", input_shape=(1, 4, 4), classes=3, readout="spike-count")
    chip = deploy(network, [SpikeLoss()])
    names = [name for name, _ in chip.layers.named_children()]
    assert sum("spikes" in name for name in names) >= 1
    assert "spikes" not in names[-1]
    assert [name for name in names if "spikes" not in name] == [name for name, _ in deploy(network, []).layers.named_children()]


@pytest.mark.parametrize(
    ("make", "settings"), [(SpikeLoss, {"probability": 1.1}), (SpikeLoss, {"probability": -0.1}), (Jitter, {"deviation": -1.0})]
)
def test_settings_out_of_range_are_refused(make, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        make(**settings)
