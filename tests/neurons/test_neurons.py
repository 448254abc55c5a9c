"""The fused layer against the plain reference, forward and backward, over every option."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.neurons import STBP, SURROGATES, Dynamics, SpikingNeuron, Surrogate, fire, reference_forward

OPTIONS = list(itertools.product(("hard", "soft"), (False, True), (">=", ">"), ("unit", "leaky"), (0.0, 0.5)))


def run(function, current, leak, threshold, weight, *arguments):
    leaves = [t.clone().requires_grad_() for t in (current, leak, threshold)]
    spikes, membrane = function(*leaves, *arguments)
    gradients = torch.autograd.grad((spikes * weight).sum(), leaves, allow_unused=True)
    return spikes.detach(), membrane.detach(), gradients


@pytest.mark.parametrize(("reset", "detach", "comparator", "gain", "initial"), OPTIONS)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_fused_layer_equals_reference(reset, detach, comparator, gain, initial, surrogate):
    torch.manual_seed(0)
    current = torch.randn(6, 3, 4, 2, dtype=torch.float64) * 1.5
    weight = torch.randn_like(current)
    leak, threshold = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    dynamics = Dynamics(0.7, 0.6, reset, detach, comparator, gain, initial)
    surrogate = Surrogate(surrogate, 0.8)
    expected = run(reference_forward, current, leak, threshold, weight, dynamics, surrogate)
    got = run(fire, current, leak, threshold, weight, dynamics, STBP(surrogate))
    assert expected[0].mean() > 0.05  # the test says nothing about a silent layer
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(got[2], expected[2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.integers(1, 9),
    batch=st.integers(1, 4),
    leak=st.floats(0, 1),
    threshold=st.floats(0.05, 3),
    options=st.sampled_from(OPTIONS),
    seed=st.integers(0, 999),
)
def test_fused_layer_equals_reference_anywhere(steps, batch, leak, threshold, options, seed):
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(steps, batch, 5, dtype=torch.float64, generator=generator)
    weight = torch.randn(steps, batch, 5, dtype=torch.float64, generator=generator)
    dynamics = Dynamics(leak, threshold, *options)
    parameters = torch.tensor(leak, dtype=torch.float64), torch.tensor(threshold, dtype=torch.float64)
    expected = run(reference_forward, current, *parameters, weight, dynamics, Surrogate())
    got = run(fire, current, *parameters, weight, dynamics, STBP(Surrogate()))
    assert torch.equal(got[0], expected[0])
    for mine, theirs in zip(got[2], expected[2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_membrane_by_hand():
    """IF, soft reset, V = 1: 0.6, 1.2 -> spike, 0.8, 1.4 -> spike."""
    spikes, membrane = fire(
        torch.full((4, 1, 1), 0.6), torch.tensor(1.0), torch.tensor(1.0), Dynamics(leak=1.0, reset="soft"), STBP()
    )
    assert spikes.flatten().tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(membrane.flatten().numpy(), [0.6, 1.2, 0.8, 1.4], rtol=1e-6)


def test_comparator_at_the_threshold():
    current = torch.ones(1, 1, 1)
    for comparator, expected in ((">=", 1.0), (">", 0.0)):
        spikes, _ = fire(current, torch.tensor(1.0), torch.tensor(1.0), Dynamics(comparator=comparator), STBP())
        assert spikes.item() == expected


@pytest.mark.parametrize("name", [n for n in SURROGATES if n != "ste"])
@pytest.mark.parametrize("width", [0.25, 1.0, 2.0])
def test_surrogates_integrate_to_their_norm(name, width):
    surrogate = Surrogate(name, width)
    distance = width * torch.sinh(torch.linspace(-9, 9, 200_001, dtype=torch.float64))
    area = torch.trapezoid(surrogate.derivative(distance), distance).item()
    assert area == pytest.approx(2.0 if name == "exponential" else 1.0, rel=1e-3)


def test_no_state_between_forwards():
    neuron = SpikingNeuron(Dynamics(leak=1.0))
    x = torch.rand(5, 2, 3)
    first = neuron(x)
    neuron(torch.rand(7, 4, 3))
    assert torch.equal(neuron(x), first)


def test_learnable_leak_and_threshold_come_back_from_their_bounds():
    neuron = SpikingNeuron(Dynamics(leak=1.0), learn=True)
    with torch.no_grad():
        neuron.leak.fill_(1.2)
    neuron(torch.rand(5, 2, 3)).sum().backward()
    assert neuron.leak.grad is not None
    assert neuron.leak.grad.abs() > 0
    assert neuron.threshold.grad.abs() > 0


def test_estimator_is_applied_to_one_model_and_taken_away():
    one, other = SpikingNeuron(), SpikingNeuron()
    own = one.estimator
    attack = STBP(Surrogate("atan", 2.0))
    with attack.applied(torch.nn.Sequential(one)):
        assert one.estimator is attack
        assert other.estimator is not attack
    assert one.estimator is own


@pytest.mark.parametrize(
    "bad", [{"leak": 1.5}, {"threshold": 0.0}, {"threshold": float("nan")}, {"reset": "none"}, {"initial": float("inf")}]
)
def test_bad_dynamics_are_refused(bad):
    with pytest.raises(ConfigError, match="Expected"):
        Dynamics(**bad)


def test_bad_surrogates_are_refused():
    with pytest.raises(ConfigError, match="Known: triangular"):
        Surrogate("gaussian-ish")
    with pytest.raises(ConfigError, match="positive"):
        Surrogate("atan", -1.0)


def test_current_without_time_is_refused():
    with pytest.raises(ModelContractError, match=r"\[T, B"):
        SpikingNeuron()(torch.rand(3))


def test_a_second_derivative_is_refused_and_not_wrong():
    current = torch.rand(3, 2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(SpikingNeuron()(current).sum(), current, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        gradient.square().sum().backward()


def test_threshold_alone_can_be_learnt_with_a_leaky_gain():
    neuron = SpikingNeuron(Dynamics(gain="leaky"), learn=True)
    neuron.leak.requires_grad_(False)
    neuron(torch.rand(5, 2, 3) * 3).sum().backward()
    assert neuron.threshold.grad.abs() > 0
    assert neuron.leak.grad is None


def test_large_layers_are_cut_to_the_cache_and_stay_the_same():
    torch.manual_seed(0)
    current = torch.randn(3, 5, 200_000, dtype=torch.float64)
    weight = torch.randn_like(current)
    parameters = torch.tensor(0.5, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    for dynamics in (Dynamics(initial=0.5), Dynamics(reset="soft", gain="leaky")):
        expected = run(reference_forward, current, *parameters, weight, dynamics, Surrogate())
        got = run(fire, current, *parameters, weight, dynamics, STBP(Surrogate()))
        assert torch.equal(got[0], expected[0])
        for mine, theirs in zip(got[2], expected[2], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7)
