"""Neurons with initial potentials against the plain reference, and ReLU in a neuron's place."""

from __future__ import annotations

import pytest
import torch

from trustsnn.errors import ModelContractError
from trustsnn.kernels import available, using
from trustsnn.neurons import STBP, Dynamics, Surrogate, reference_forward
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.relu import ReLU

DYNAMICS = Dynamics(leak=1.0, reset="soft", initial=0.25)


def layer(shape, dtype):
    neuron = Calibrated(DYNAMICS, Surrogate("atan"), shape=shape).to(dtype)
    neuron.potential.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    return neuron


@pytest.mark.parametrize("given", [5, 1])
@pytest.mark.parametrize("kernel", [kernel for kernel in available() if kernel != "numba"])  # it compiles for long
def test_potentials_are_what_the_membrane_begins_with(given, kernel):
    torch.manual_seed(0)
    neuron = layer((3, 4, 2), torch.float32)
    current = torch.rand(given, 2, 3, 4, 2)
    weight = torch.randn(5, 2, 3, 4, 2)
    mine, theirs = current.clone().requires_grad_(), current.clone().requires_grad_()
    first = torch.zeros(5, 1, 3, 4, 2)
    first[0] = neuron.potential
    sequence = theirs.expand(5, *theirs.shape[1:]) + first
    expected, _ = reference_forward(sequence, torch.tensor(1.0), torch.tensor(1.0), DYNAMICS, Surrogate("atan"))
    with using(kernel):
        got = neuron.fire(mine, 5)
        (gradient,) = torch.autograd.grad((got * weight).sum(), mine)
    assert 0.2 < float(got.detach().mean()) < 0.8
    assert torch.equal(got, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weight).sum(), theirs)[0], rtol=1e-4, atol=1e-5)
    assert not torch.equal(got, Calibrated(DYNAMICS).fire(current, 5))


def test_a_current_of_other_neurons_is_refused():
    with pytest.raises(ModelContractError, match=r"neurons \[3\].*got \[4\]"):
        layer((3,), torch.float32)(torch.zeros(2, 1, 4))


def test_the_unit_changes_nothing():
    neuron, other = Calibrated(DYNAMICS), Calibrated(DYNAMICS)
    other.unit.fill_(7.0)
    current = torch.rand(4, 2, 6)
    assert other.bound == 7
    assert torch.equal(neuron(current), other(current))


def test_relu_knows_no_bound_and_no_surrogate():
    neuron = ReLU()
    neuron.threshold.fill_(0.5)
    h = torch.tensor([[[-1.0, 0.0, 0.3, 4.0]]], requires_grad=True)
    with STBP(Surrogate("ste")).applied(neuron):
        neuron(h).sum().backward()
    assert neuron(h).flatten().tolist() == pytest.approx([0, 0, 0.3, 4])
    assert h.grad.flatten().tolist() == [0, 0, 1, 1]
