"""Bit-serial and rate conversion: exact where it is said to be, against a plain loop and for drawn networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import trustsnn
from trustsnn.attacks import PGD
from trustsnn.attacks.estimators import ESTIMATORS, estimator
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import frozen, observe, predict
from trustsnn.checkpoint import model_hash
from trustsnn.conversion import METHODS, compare, convert
from trustsnn.data import from_arrays
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models import build, check_contract
from trustsnn.models.plain import FAMILY
from trustsnn.neurons import STBP, Dynamics, SpikingNeuron, Surrogate, reference_forward
from trustsnn.neurons.bitserial import BitSerial, shifted_sum
from trustsnn.neurons.estimator import neurons_of
from trustsnn.neurons.qcfs import QCFS

RATES = ("rate", "shift")


def plain_bit_serial(ann, x, steps):
    """METHODS, section 2, layer by layer in the ANN's own units: the spikes [T, B, ...] of each layer, and the logits.

    Currents of bits add up by u <- 2u + I_t; the bias, with the normalisation's, joins once; then bits fire.
    """
    levels = 2**steps - 1
    values = [x]  # what each step sends: the analogue input, then (lam / L) s_t
    trains, bias = [], 0
    for layer in ann.layers:
        if isinstance(layer, QCFS):
            lam = float(layer.threshold.detach())
            u = values[0]
            for current in values[1:]:
                u = 2 * u + current
            u = u + bias + lam / (2 * levels)
            spikes = []
            for t in range(1, steps + 1):
                threshold = lam * 2 ** (steps - t) / levels
                spikes.append((u >= threshold).to(u.dtype))
                u = u - spikes[-1] * threshold
            trains.append(torch.stack(spikes))
            values = [lam / levels * spike for spike in spikes]
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            bias = 0 if layer.bias is None else layer.bias.view(-1, *[1] * (2 if isinstance(layer, nn.Conv2d) else 0))
            unbiased = copy.deepcopy(layer)
            unbiased.bias = None
            values = [unbiased(value) for value in values]
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            shape = (-1, *[1] * (values[0].dim() - 2))
            scale = (layer.running_var + layer.eps).rsqrt() * (layer.weight if layer.affine else 1)
            bias = (bias - layer.running_mean.view(shape)) * scale.view(shape) + (layer.bias.view(shape) if layer.affine else 0)
            values = [value * scale.view(shape) for value in values]
        else:
            values = [layer(value) for value in values]
    return trains, shifted_sum(torch.stack(values)) + bias


CONVOLUTION = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([1, 2, 3, (1, 3)]),
        "stride": st.sampled_from([1, 2]),
        "padding": st.sampled_from([2, 3]),
        "dilation": st.sampled_from([1, 2]),
        "groups": st.sampled_from([1, 2]),
        "pool": st.booleans(),
        "norm": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.lists(CONVOLUTION, min_size=1, max_size=2))
def test_bit_serial_equals_qcfs_in_any_network(drawn, seed, steps, layers):
    ann, data = drawn(seed, 2**steps - 1, layers)
    precise = copy.deepcopy(ann).double()
    spiking = convert(precise)
    exact = compare(convert(precise, "folded"), spiking, data)
    assert [layer.mismatches["successes"] for layer in exact.layers] == [0] * len(exact.layers)
    assert exact.logits == 0  # not one bit
    for layer in compare(precise, spiking, data).layers:
        assert layer.mismatches["successes"] == layer.own_mismatches["successes"] == 0
    for reference in (ann, precise):
        for layer in compare(reference, convert(ann), data).layers:
            assert layer.own_mismatches["successes"] == 0 or layer.tie < 1e-2


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.lists(CONVOLUTION, min_size=1, max_size=2))
def test_bit_serial_equals_the_plain_loop(drawn, seed, steps, layers):
    ann, data = drawn(seed, 2**steps - 1, layers)
    ann = ann.double()
    x = torch.from_numpy(data.batch(range(len(data)))[0]).double()
    with torch.no_grad():
        trains, logits = plain_bit_serial(ann, x, steps)
        spiking = convert(ann)
        trace = spiking.unroll(x)
        torch.testing.assert_close(trace.logits.mean(0), logits)
        torch.testing.assert_close(ann(x), logits)
    for (name, counts), train in zip(trace.spike_counts.items(), trains, strict=True):
        assert torch.equal(counts, train.sum(0)), name


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_the_bits_are_those_of_the_level(steps, seed):
    levels = 2**steps - 1
    u = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(seed)) * levels * 2
    u[0, 0, :6] = torch.tensor([-1e30, 1e30, 0.0, 0.5, -0.5, levels - 0.5])
    spikes = BitSerial(steps)(u)
    expected = torch.floor(u[0] + 0.5).clamp(0, levels)
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(shifted_sum(spikes), expected)
    assert torch.equal(BitSerial(steps)(spikes), spikes)  # a level comes back as it was
    whole = (expected.long() >> torch.arange(steps - 1, -1, -1).view(-1, 1, 1)) & 1
    assert torch.equal(spikes, whole.to(spikes.dtype))


def test_bits_have_the_gradient_of_a_neuron_that_doubles_its_membrane():
    layer = BitSerial(4, Surrogate("triangular", 1.0))
    u = (torch.rand(1, 2, 40, dtype=torch.float64) * 20 - 3).requires_grad_()
    weight = torch.randn(4, 2, 40, dtype=torch.float64)
    first = (u + 0.5) / 8
    current = torch.cat([first, torch.zeros(3, 2, 40, dtype=torch.float64)])
    two, one = torch.tensor([2.0, 1.0], dtype=torch.float64)
    expected, _ = reference_forward(current, two, one, Dynamics(leak=1.0, reset="soft"), Surrogate("triangular", 1.0))
    got = layer(u)
    assert torch.equal(got, expected)
    mine, theirs = (torch.autograd.grad((spikes * weight).sum(), u)[0] for spikes in (got, expected))
    assert mine.count_nonzero() > 40
    torch.testing.assert_close(mine, theirs)


def test_straight_through_bits_have_the_gradient_of_the_level():
    """With the surrogate derivative 1 everywhere, the gradients of all bits add up to that of the current."""
    layer = BitSerial(4)
    layer.estimator = STBP(Surrogate("ste"))
    u = (torch.rand(1, 2, 40, dtype=torch.float64) * 20 - 3).requires_grad_()
    (gradient,) = torch.autograd.grad(shifted_sum(layer(u)).sum(), u)
    torch.testing.assert_close(gradient, torch.ones_like(u))
    bits = torch.rand(4, 2, 40, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(shifted_sum(layer(bits)).sum(), bits)
    torch.testing.assert_close(gradient, torch.tensor([8.0, 4, 2, 1]).double().view(4, 1, 1).expand_as(bits))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(["resnet-small", "resnet20", "resnet50"]))
def test_bit_serial_equals_qcfs_in_residual_networks(statistics, seed, steps, name):
    """Currents of a branch and of its shortcut add up, with and without weights on the shortcut."""
    ann = build(name, input_shape=(1, 6, 6), classes=4, channels=0.1, neuron="qcfs", levels=2**steps - 1, seed=seed).eval()
    torch.manual_seed(seed)
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            statistics(module)
        elif isinstance(module, QCFS):
            torch.nn.init.constant_(module.threshold, float(torch.rand(()) * 3 + 0.2))
    data = from_arrays(torch.rand(6, 1, 6, 6).numpy(), np.arange(6) % 4, domain="image", max_count=None, classes=4)
    precise = copy.deepcopy(ann).double()
    folded, spiking = convert(precise, "folded"), convert(precise)
    assert compare(folded, spiking, data).logits == 0  # not one bit
    found = compare(precise, spiking, data)
    assert [layer.mismatches["successes"] for layer in found.layers] == [0] * len(found.layers)
    assert found.logits < 1e-6 * (1 + float(precise.layers[-1].weight.detach().abs().max()))
    assert len({layer.name for layer in found.layers}) == len(found.layers) == len(neurons_of(ann))


def test_the_shift_of_a_residual_network_is_one_for_each_neuron(statistics):
    """Of all currents that add up to a neuron's, one has it: without an input a neuron gets its biases and V / 2."""
    ann = build("resnet-small", input_shape=(1, 6, 6), classes=4, channels=0.1, neuron="qcfs", levels=7, threshold=2.0).eval()
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            statistics(module)
    block = convert(ann, "shift", steps=4).layers[4]
    plain = convert(ann, "rate", steps=4).layers[4]
    (first, second), (without, others) = ([branch[-1].bias for branch in each] for each in (block, plain))
    torch.testing.assert_close(first, without + 1 / 8)
    assert torch.equal(second, others)


@pytest.mark.parametrize("name", [*FAMILY.plans, "resnet-small"])
@pytest.mark.parametrize("method", METHODS)
def test_a_converted_network_is_a_model_like_any_other(name, method, tmp_path):
    ann = build(name, input_shape=(1, 8, 8), classes=5, channels=0.1, neuron="qcfs", levels=7, threshold=2.0)
    x = torch.rand(40, 1, 8, 8)
    for _ in range(5):
        ann.train()(x)
    spiking = convert(ann, method, steps=5 if method in RATES else None)
    assert not spiking.training
    again = trustsnn.load(trustsnn.save(spiking, tmp_path / "model"))
    assert model_hash(again) == model_hash(spiking)
    assert again.spec == spiking.spec
    with frozen(again), frozen(spiking):
        logits = predict(spiking, x)
        assert torch.equal(predict(again, x), logits)
        assert torch.equal(torch.cat([predict(spiking, part) for part in x.split(7)]), logits)
        assert torch.equal(observe(spiking, x).logits, logits)
    trace = spiking.unroll(x)
    torch.testing.assert_close(trace.logits.mean(0), spiking(x))
    assert len(trace.logits) == spiking.spec.steps == {"bit-serial": 3, "folded": 1}.get(method, 5)
    assert check_contract(spiking, x[:8], 5) == []
    if method not in RATES:
        torch.testing.assert_close(logits, ann.eval()(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_comparison_is_that_of_the_networks_themselves(ann, few, method):
    spiking = convert(ann, method, steps=4 if method in RATES else None)
    found = compare(ann, spiking, few)
    x, y = map(torch.from_numpy, few.batch(range(len(few))))
    with frozen(ann), frozen(spiking):
        theirs, ours = predict(ann, x), predict(spiking, x)
        counts = observe(spiking, x).spikes
    assert found.accuracy["successes"] == int((ours.argmax(1) == y).sum())
    assert found.ann_accuracy["successes"] == int((theirs.argmax(1) == y).sum())
    assert found.agreement["successes"] == int((theirs.argmax(1) == ours.argmax(1)).sum())
    assert found.logits == pytest.approx(float((theirs - ours).abs().max()), abs=1e-5)
    assert [layer.threshold for layer in found.layers] == [layer.bound for layer in ann.layers if isinstance(layer, QCFS)]
    for layer in found.layers:
        assert layer.mismatches["count"] == layer.neurons * len(few)
        if method != "folded":
            assert (layer.rate["successes"], layer.rate["count"]) == counts[layer.name]
        else:
            assert layer.mismatches["successes"] == 0
    if method != "folded":
        assert found.spikes == sum(layer.rate["successes"] for layer in found.layers) / len(few)


def test_bit_serial_digits_without_loss_and_rates_with(ann, few):
    exact = compare(ann, convert(ann), few)
    assert exact.agreement["value"] == 1
    assert exact.logits < 1e-4
    assert all(layer.mismatches["successes"] <= 2 for layer in exact.layers)
    short, long = (compare(ann, convert(ann, "rate", steps=steps), few) for steps in (2, 256))
    assert short.layers[-1].error > 3 * long.layers[-1].error > 0  # to the ANN before its quantisation
    assert long.agreement["value"] > 0.9
    first, *others = short.layers
    assert first.error == first.own_error
    assert all(layer.own_error < layer.error for layer in others)
    assert short.layers[0].tie is None


@pytest.mark.parametrize("bias", [1000.0, -1000.0])
def test_a_wrong_activation_is_counted_where_it_enters(ann, few, bias):
    """A channel of the second layer always or never fires: it is wrong there, by itself too; the third layer because of it."""
    spiking = convert(ann)
    neurons = [place for place, layer in enumerate(spiking.layers) if isinstance(layer, SpikingNeuron)]
    with torch.no_grad():
        spiking.layers[neurons[1] - 1].bias[0] = bias
    first, second, third = compare(ann, spiking, few).layers
    assert first.mismatches["successes"] == 0
    assert second.mismatches["successes"] == second.own_mismatches["successes"] > 0
    assert third.mismatches["successes"] > third.own_mismatches["successes"] == 0
    assert third.error > third.own_error == 0


def test_float32_mismatches_are_ties(drawn):
    """Currents in the middle between levels: float32 may fall on either side, and the report says how near the tie was."""
    ann, data = drawn(0, 255, [{"kernel_size": 3, "padding": 1}], size=20, batch=200)
    layers = compare(ann, convert(ann), data).layers
    assert sum(layer.own_mismatches["successes"] for layer in layers) > 0
    assert all(layer.tie is None or layer.tie < 1e-2 for layer in layers)
    assert all(layer.mismatches["value"] < 1e-3 for layer in layers[:1])


@pytest.mark.parametrize("name", [name for name in ESTIMATORS.describe() if name != "mixture"])
def test_every_estimator_attacks_a_bit_serial_network(ann, few, name):
    spiking = convert(ann)
    x, y = map(torch.from_numpy, few.take(20).batch(range(20)))
    adversarial = PGD(eps=0.25, steps=4, estimator=estimator(name))(spiking, x, y)
    assert float((spiking(adversarial).argmax(1) == y).float().mean()) < 0.6


def test_the_ann_twin_of_a_bit_serial_network_is_its_ann_with_rectifiers(ann, few):
    x = torch.from_numpy(few.batch(range(20))[0])
    twins = [ann_twin(network) for network in (ann, convert(ann), convert(ann, "rate", steps=3))]
    with torch.no_grad():
        expected, *others = (twin(x) for twin in twins)
    for logits in others:
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_bad_conversions_are_refused(ann):
    spiking = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1)
    for arguments, message in (
        ((ann, "magic"), "Known: bit-serial, rate"),
        ((spiking,), "got SpikingNeuron. Train one with"),
        ((nn.Linear(2, 2),), "got Linear"),
        ((build("mlp", input_shape=(1, 8, 8), classes=3, neuron="qcfs", levels=6),), r"2\^T - 1 levels"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(*arguments)
    with pytest.raises(ConfigError, match="Expected 3 bit-serial steps for 7 levels, got 4"):
        convert(ann, steps=4)
    for steps in (None, 0):
        with pytest.raises(ConfigError, match="at least 1 for the conversion 'rate'"):
            convert(ann, "rate", steps=steps)
    with pytest.raises(ModelContractError, match="3 bits or an analogue one, got 2"):
        BitSerial(3)(torch.zeros(2, 1, 1))


@pytest.mark.parametrize(
    ("place", "layer", "message"),
    [
        (3, nn.MaxPool2d(2), "MaxPool2d.*average pooling"),
        (1, nn.ReLU(), "ReLU"),
        (1, nn.GroupNorm(1, 8), "GroupNorm.*Train with --norm batch"),
        (3, nn.BatchNorm2d(8), "BatchNorm2d"),
        (0, QCFS(7), "follow no weights"),
        (3, QCFS(3), "with \\[3, 7\\] levels"),
    ],
)
def test_layers_that_spikes_cannot_pass_are_refused(ann, place, layer, message):
    changed = copy.deepcopy(ann)
    layers = list(changed.layers)
    changed.layers = nn.Sequential(*layers[:place], layer, *layers[place:])
    with pytest.raises(ConfigError, match=message):
        convert(changed)


def test_a_network_of_another_ann_is_refused(ann, few):
    other = build("mlp", input_shape=(1, 8, 8), classes=10, neuron="qcfs", levels=7)
    with pytest.raises(ConfigError, match="3 spiking layers, got 2"):
        compare(ann, convert(other), few)


@pytest.mark.parametrize("method", ["rate", "shift"])
def test_rates_of_a_constant_current_are_its_quantised_activation(ann, few, method):
    """A layer alone, T = L: integrate-and-fire with soft reset gives QCFS's level, but where rounding decides."""
    layers = compare(ann, convert(ann, method, steps=7), few).layers
    assert all(layer.own_mismatches["successes"] <= 3 for layer in layers)
    assert layers[-1].mismatches["successes"] > 100  # spikes of the layer before do not come evenly
