"""Neurons with integer state: their gradient, their parts, and what an attack makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trustsnn.attacks import FGSM
from trustsnn.errors import ModelContractError
from trustsnn.hardware.choose import parse
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.fixed import Core
from trustsnn.hardware.loihi import LoihiNeuron
from trustsnn.hardware.speck import SpeckNeuron
from trustsnn.hardware.spinnaker import SpiNNakerNeuron
from trustsnn.hardware.xylo import XyloNeuron
from trustsnn.neurons import STBP, Dynamics, SpikingNeuron, Surrogate
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.fixed_point import FixedPoint

CHIPS = {
    "loihi": (Dynamics(leak=0.5, comparator=">"), lambda neuron, core: LoihiNeuron(neuron, core)),
    "spinnaker": (Dynamics(leak=0.5, initial=0.25), lambda neuron, core: SpiNNakerNeuron(neuron, "nearest")),
    "speck": (Dynamics(leak=1.0, reset="soft"), lambda neuron, core: SpeckNeuron(neuron, core)),
    "xylo": (Dynamics(leak=0.75, reset="soft"), lambda neuron, core: XyloNeuron(neuron, core, False)),
    "xylo with synapses": (Dynamics(leak=0.75, reset="soft"), lambda neuron, core: XyloNeuron(neuron, core, True)),
}


def chip_of(name: str, gain: str = "unit") -> tuple[SpikingNeuron, FixedPoint]:
    """Neurons in floating point, and those of the chip."""
    dynamics, make = CHIPS[name]
    neuron = SpikingNeuron(replace(dynamics, gain=gain))
    core = Core(torch.full((3, 2), 1.0), torch.zeros(3), neuron, False, 1, 1.0)
    return neuron, make(neuron, core)


def currents(chip: FixedPoint, steps: int = 6) -> torch.Tensor:
    """Currents in [-.4, 1) with which the chip loses nothing: multiples of 64 of its whole numbers."""
    values = torch.rand(steps, 40, 3, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.4
    one = (64 if isinstance(chip, LoihiNeuron) else 1) / (chip.unit * chip.gain)
    return ((values / one).round() * one).requires_grad_()


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize(
    "estimator", [STBP(Surrogate("triangular", 1.0)), STBP(Surrogate("atan", 2.0))], ids=["triangular", "atan"]
)
def test_the_gradient_is_that_of_the_same_neurons_in_floating_point(name, estimator):
    neuron, chip = chip_of(name)
    neuron.estimator = chip.estimator = estimator
    given = currents(chip)
    felt = chip.reaching(given, len(given))
    spikes, exact = chip.fire(given), neuron.fire(felt)
    assert (spikes.clamp(max=1) - exact).abs().sum() <= 8, "more than membranes that equal the threshold"
    assert exact.mean() > 0.05
    same = (spikes == exact).all(0).all(1)
    assert same.sum() > 30
    weights = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1))
    found, expected = (
        torch.autograd.grad((each * weights).sum(), given, retain_graph=True)[0][:, same] for each in (spikes, exact)
    )
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("name", CHIPS)
def test_parts_of_the_steps_are_all_of_them(name):
    _, chip = chip_of(name)
    given = currents(chip)
    first, state = chip.resume(given[:2], 2, None)
    rest, _ = chip.resume(given[2:], 4, state)
    assert torch.equal(torch.cat([first, rest]), chip.fire(given))
    assert rest.requires_grad
    assert not state.requires_grad


@pytest.mark.parametrize("name", CHIPS)
def test_a_constant_current_is_the_same_at_each_step(name):
    _, chip = chip_of(name)
    given = currents(chip, 1)
    constant, repeated = chip.fire(given, 5), chip.fire(given.expand(5, -1, -1))
    assert torch.equal(constant, repeated)
    found, expected = (torch.autograd.grad(each.sum(), given)[0] for each in (constant, repeated))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", CHIPS)
def test_distances_are_those_of_the_integers(name):
    _, chip = chip_of(name)
    given = currents(chip)
    spikes, membranes = chip.unroll(given)
    distances = chip.distances(given, spikes)
    torch.testing.assert_close(distances, membranes - chip.threshold)
    (gradient,) = torch.autograd.grad(distances.sum(), given)
    assert gradient.abs().min() > 0


def test_a_leaky_gain_is_part_of_the_drive():
    neuron, chip = chip_of("spinnaker", gain="leaky")
    given = currents(chip)
    assert chip.gain == 0.5
    torch.testing.assert_close(chip.unroll(given)[1], neuron.unroll(given)[1], rtol=0, atol=1e-3)
    found, expected = (torch.autograd.grad(each.fire(given).sum(), given)[0] for each in (chip, neuron))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_initial_potentials_are_part_of_the_state():
    neuron = Calibrated(Dynamics(leak=1.0, reset="soft", initial=0.5), shape=[3])
    neuron.potential.copy_(torch.tensor([0.0, 0.25, -0.5]))
    chip = SpiNNakerNeuron(neuron, "nearest")
    given = currents(chip)
    assert torch.equal(chip.fire(given), neuron.fire(given))
    assert chip.initial.tolist() == [1 << 14, 3 << 13, 0]


def test_steps_that_do_not_fit_are_refused():
    _, chip = chip_of("spinnaker")
    with pytest.raises(ModelContractError, match=r"\[1 or 3, B"):
        chip.fire(torch.zeros(2, 1, 3), 3)


@pytest.mark.parametrize("line", ["loihi", "spinnaker", "speck:approximate=true", "xylo:approximate=true"])
def test_an_attack_goes_through_a_twin(digits_model, digits_test, line):
    x, y = (torch.from_numpy(values) for values in digits_test.batch(range(48)))
    chip = deploy(digits_model, parse(line))
    with torch.no_grad():
        clean = chip(x).argmax(1).eq(y).sum()
    attacked = FGSM(eps=0.3).run(chip, x, y, tuple(map(str, range(len(x))))).adversarial
    with torch.no_grad():
        left = chip(attacked).argmax(1).eq(y).sum()
    assert clean >= 44
    assert left < clean - 12
