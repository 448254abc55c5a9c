"""The SpiNNaker twin, against its arithmetic in exact fractions."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch

from trustsnn.errors import ConfigError
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.spinnaker import ONE, SpiNNaker, SpiNNakerNeuron
from trustsnn.models import build
from trustsnn.neurons import Dynamics, SpikingNeuron

ROUNDED = {"nearest": lambda x: math.floor(x + Fraction(1, 2)), "down": math.floor}


@pytest.mark.parametrize("rounding", ["nearest", "down"])
@pytest.mark.parametrize(("reset", "comparator"), [("hard", ">="), ("soft", ">")])
def test_steps_are_exact_products_rounded_once(rounding, reset, comparator):
    draw = random.Random(0)
    neuron = SpiNNakerNeuron(SpikingNeuron(Dynamics(leak=0.7, reset=reset, comparator=comparator)), rounding)
    states = [
        0,
        1,
        -1,
        3 * ONE,
        2**31 - 1,
        -(2**31),
        *(draw.randint(-(2**31), 2**31 - 1) >> draw.randint(0, 31) for _ in range(2000)),
    ]
    currents = [draw.uniform(-2, 2) for _ in states[:-500]] + [70_000.0, -70_000.0] * 250
    membranes, fired, after = neuron.step(torch.tensor(states), neuron.drive(torch.tensor(currents, dtype=torch.float64)))
    for index, (state, current) in enumerate(zip(states, currents, strict=True)):
        drive = round(Fraction(current) * ONE) if rounding == "nearest" else math.floor(Fraction(current) * ONE)
        u = ROUNDED[rounding](Fraction(state * round(0.7 * ONE), ONE)) + drive
        u = max(-(2**31), min(2**31 - 1, u))
        spike = u > ONE if comparator == ">" else u >= ONE
        expected = (u, spike, (0 if reset == "hard" else u - ONE) if spike else u)
        assert (int(membranes[index]), bool(fired[index]), int(after[index])) == expected
    assert int(membranes.max()) == 2**31 - 1
    assert int(membranes.min()) == -(2**31)


def test_stochastic_rounding_is_right_in_the_mean(draws_of):
    twin = SpiNNaker(rounding="stochastic")
    neuron = SpiNNakerNeuron(SpikingNeuron(Dynamics(leak=0.3)), "stochastic")
    count, state = 40_000, 12_347
    dither = twin.currents(None)
    current = dither(torch.full((count, 1), 0.25), range(1), draws_of(count))
    found = neuron.step(torch.full((count, 1), state), neuron.drive(current))[0].double()
    exact = state * round(0.3 * ONE) / ONE + 0.25 * ONE
    up = exact - math.floor(exact)
    assert set(found.unique().tolist()) == {math.floor(exact), math.ceil(exact)}
    assert abs(float(found.mean()) - exact) < 4 * math.sqrt(up * (1 - up) / count)


def test_weights_are_s16_15(image_network):
    network, _ = image_network
    deployed = deploy(network, [SpiNNaker()])
    for parameter in deployed.parameters():
        assert torch.equal(parameter * ONE, (parameter * ONE).round())
    assert deployed.layers[1].threshold == 1
    assert not deployed.spec.stochastic


def test_stochastic_rounding_draws_for_each_sample(image_network, draws_of):
    network, x = image_network
    deployed, draws = deploy(network, [SpiNNaker(rounding="stochastic")]), draws_of(len(x))
    assert deployed.spec.stochastic
    with torch.no_grad():
        whole = deployed.unroll(x, draws)
        order = [5, 2, 9]
        some = deployed.unroll(x[order], draws.select(order))
    for name, counts in whole.spike_counts.items():
        assert torch.equal(counts[order], some.spike_counts[name])
    torch.testing.assert_close(whole.logits[:, order], some.logits)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "down"])
def test_its_precision_hardly_matters(digits_model, digits_test, draws_of, rounding):
    x, y = (torch.from_numpy(values) for values in digits_test.batch(range(120)))
    deployed = deploy(digits_model, [SpiNNaker(rounding=rounding)])
    with torch.no_grad():
        found = deployed(x, draws_of(len(x)) if deployed.spec.stochastic else None)
        assert (found.argmax(1) == digits_model(x).argmax(1)).sum() >= 118
    assert found.argmax(1).eq(y).sum() >= 110


def test_settings_and_neurons_are_checked():
    with pytest.raises(ConfigError, match="rounding"):
        SpiNNaker(rounding="up")
    with pytest.raises(ConfigError, match="plain LIF and IF neurons"):
        deploy(build("conv", input_shape=(1, 8, 8), classes=3, neuron="relu"), [SpiNNaker()])
