"""Conversion of ReLU networks: thresholds against plain searches, the network against a plain loop, corrections against what they undo."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import trustsnn
from trustsnn.attacks import PGD
from trustsnn.blocks import frozen, observe, predict
from trustsnn.checkpoint import model_hash
from trustsnn.conversion import CALIBRATIONS, Calibration, compare, convert, hybrid_start
from trustsnn.conversion.thresholds import largest_activations, least_squares, with_thresholds
from trustsnn.errors import ConfigError
from trustsnn.models import build, check_contract
from trustsnn.models.branches import Branches
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.qcfs import QCFS
from trustsnn.neurons.relu import ReLU
from trustsnn.training import TrainConfig, train


def images(data):
    return torch.from_numpy(data.batch(range(len(data)))[0])


def activations(network, x):
    """Of each layer of neurons by itself; spike counts of a spiking one."""
    with frozen(network), torch.no_grad():
        return list(network.unroll(x).spike_counts.values())


def plain_balance(ann, x, steps, bounds, initial):
    """Integrate-and-fire in the ANN's own units, every layer of the ANN at every step: spike counts of each, and mean logits."""
    neurons = [layer for layer in ann.layers if isinstance(layer, ReLU)]
    bound = dict(zip(neurons, bounds, strict=True))
    membrane = {neuron: initial * bound[neuron] for neuron in neurons}
    counts, logits = dict.fromkeys(neurons, 0), 0
    for _ in range(steps):
        h = x
        for layer in ann.layers:
            if layer not in bound:
                h = layer(h)
                continue
            u = membrane[layer] + h
            spike = (u >= bound[layer]).to(u.dtype)
            membrane[layer] = u - spike * bound[layer]
            counts[layer] = counts[layer] + spike
            h = spike * bound[layer]
        logits = logits + h
    return list(counts.values()), logits / steps


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.sampled_from([100.0, 99.0, 60.0]),
    st.sampled_from([0.0, 0.5]),
    st.lists(
        st.fixed_dictionaries({"kernel_size": st.just(3), "padding": st.just(1), "pool": st.booleans()}), min_size=1, max_size=2
    ),
)
def test_balance_equals_the_plain_loop(drawn, seed, steps, percentile, initial, layers):
    ann, data = drawn(seed, 7, layers)
    for name, layer in ann.layers.named_children():
        if isinstance(layer, QCFS):
            ann.layers.register_module(name, ReLU())
    ann, x = ann.double().eval(), images(data).double()
    bounds = [float(np.sort(a.flatten())[-1 - int((1 - percentile / 100) * a.numel())]) for a in activations(ann, x)]
    given = Calibration(data, percentile, initial=initial)
    if min(bounds) <= 0:
        with pytest.raises(ConfigError, match="to be active on the calibration samples"):
            convert(ann, "balance", steps=steps, calibration=given)
        return
    spiking = convert(ann, "balance", steps=steps, calibration=given)
    assert [layer.bound for layer in spiking.layers if isinstance(layer, Calibrated)] == pytest.approx(bounds)
    x = 1 - x  # the sample that V is the activation of would lie on the threshold, where rounding decides
    with torch.no_grad():
        counts, logits = plain_balance(ann, x, steps, bounds, initial)
        torch.testing.assert_close(spiking(x), logits)
    for mine, theirs in zip(activations(spiking, x), counts, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_thresholds_are_those_of_a_plain_search(rectified, samples, initial):
    largest = largest_activations(rectified, samples, 100.0)
    layers = activations(rectified, images(samples))
    assert largest == pytest.approx([float(a.max()) for a in layers])
    found = least_squares(rectified, samples, largest, 4, initial)
    for activation, top, bound in zip(layers, largest, found, strict=True):
        tried = [top * (1 - 0.01 * i) for i in range(95)]
        error = [
            float((torch.floor(activation * 4 / v + initial).clamp(0, 4) * v / 4 - activation).square().sum()) for v in tried
        ]
        assert min(error) == pytest.approx(error[int(np.argmin(np.abs(np.array(tried) - bound)))], rel=1e-4)
        assert bound < 0.9 * top


def test_corrections_undo_the_error_that_they_were_measured_by(rectified, samples):
    """In order: the bias of a layer without its correction leaves that mean error by channel, then by neuron without its potential."""
    x, steps = images(samples), 4
    spiking = convert(rectified, "calibrate", steps=steps, calibration=Calibration(samples))
    neurons = [place for place, layer in enumerate(spiking.layers) if isinstance(layer, Calibrated)]
    bounds = [spiking.layers[place].bound for place in neurons]
    plain = with_thresholds(rectified, bounds)
    before = convert(
        plain, "balance", steps=steps, calibration=Calibration(samples)
    )  # for the biases: rescaled to the bounds below
    largest = [layer.bound for layer in before.layers if isinstance(layer, Calibrated)]
    targets = activations(rectified, x)
    for index, place in enumerate(neurons):
        network, target = copy.deepcopy(spiking), targets[index] / bounds[index]
        layer = network.layers[place]
        potential = layer.potential.clone()
        layer.potential.zero_()
        error = (target.double() - activations(network, x)[index].double() / steps).mean(0)
        torch.testing.assert_close(potential, (steps * error).float(), rtol=1e-4, atol=1e-5)
        assert potential.abs().max() > 0.1
        weights = max(p for p in range(place) if isinstance(network.layers[p], nn.Conv2d | nn.Linear))
        bias = network.layers[weights].bias
        corrected = bias.detach().clone()
        with torch.no_grad():
            bias.copy_(before.layers[weights].bias * largest[index] / bounds[index])
            error = (target.double() - activations(network, x)[index].double() / steps).mean(0)
            moved = corrected - bias
        torch.testing.assert_close(moved, error.reshape(len(bias), -1).mean(1).float(), rtol=1e-3, atol=1e-5)
        assert moved.abs().max() > 0.01
    with torch.no_grad():
        spiking.layers[-1].bias.copy_(before.layers[-1].bias)
        error = (predict(rectified.eval(), x) - predict(spiking, x)).mean(0)
    corrected = convert(rectified, "calibrate", steps=steps, calibration=Calibration(samples)).layers[-1].bias
    torch.testing.assert_close(corrected - before.layers[-1].bias, error, rtol=1e-3, atol=1e-4)


def test_advanced_weights_are_nearer_to_the_activations(rectified, samples):
    x, steps = images(samples), 4
    both = [
        convert(rectified, method, steps=steps, calibration=Calibration(samples, iterations=200))
        for method in ("calibrate", "calibrate-advanced")
    ]
    target = activations(rectified, x)[0] / both[0].layers[1].bound
    bias = with_thresholds(rectified, [layer.bound for layer in both[0].layers if isinstance(layer, Calibrated)])
    bias = convert(bias, "balance", steps=steps, calibration=Calibration(samples))
    bias = bias.layers[0].bias.detach() * bias.layers[1].bound / both[0].layers[1].bound
    errors = []
    for network in both:
        h = nn.functional.conv2d(x, network.layers[0].weight.detach(), bias, padding=1)
        errors.append(float((torch.floor(h * steps).clamp(0, steps) / steps - target).square().sum()))
    assert errors[1] < 0.99 * errors[0]
    moved = [(a - b).abs().max() for a, b in zip(*(network.parameters() for network in both), strict=True) if a.dim() > 1]
    assert all(moved[:-1])
    assert not moved[-1]  # the readout has no activation to fit


def test_the_order_in_which_weights_see_samples_is_the_seeds(rectified, samples):
    first, again, other = (
        convert(rectified, "calibrate-advanced", steps=2, calibration=Calibration(samples, iterations=3, seed=seed))
        .layers[0]
        .weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_a_converted_network_is_a_model_like_any_other(rectified, samples, few, method, tmp_path):
    spiking = convert(rectified, method, steps=3, calibration=Calibration(samples, iterations=2))
    x, y = map(torch.from_numpy, few.batch(range(40)))
    again = trustsnn.load(trustsnn.save(spiking, tmp_path / "model"))
    assert model_hash(again) == model_hash(spiking)
    assert again.spec == spiking.spec
    with frozen(again), frozen(spiking):
        logits = predict(spiking, x)
        assert torch.equal(predict(again, x), logits)
        assert torch.equal(torch.cat([predict(spiking, part) for part in x.split(7)]), logits)
        assert torch.equal(observe(spiking, x).logits, logits)
    assert check_contract(spiking, x[:8], 10) == []
    adversarial = PGD(eps=0.3, steps=4)(spiking, x, y)
    assert float((spiking(adversarial).argmax(1) == y).float().mean()) < 0.5
    assert (spiking.layers[1].potential is None) == (method == "balance")


def test_no_order_and_no_label_of_the_samples_matters(rectified, samples):
    order = samples.select(np.arange(len(samples))[::-1])
    other = replace(order, labels=np.zeros(len(order), dtype=np.int64))
    networks = [convert(rectified, "calibrate", steps=3, calibration=Calibration(given)) for given in (samples, other)]
    for mine, theirs in zip(*(network.state_dict().values() for network in networks), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_comparison_is_that_of_the_networks_themselves(rectified, samples, few, method):
    spiking = convert(rectified, method, steps=4, calibration=Calibration(samples, iterations=2))
    found = compare(rectified, spiking, few)
    x, y = map(torch.from_numpy, few.batch(range(len(few))))
    with frozen(rectified), frozen(spiking):
        theirs, ours = predict(rectified, x), predict(spiking, x)
    assert found.accuracy["successes"] == int((ours.argmax(1) == y).sum())
    assert found.ann_accuracy["successes"] == int((theirs.argmax(1) == y).sum())
    assert found.logits == pytest.approx(float((theirs - ours).abs().max()), abs=1e-5)
    for layer, exact, counts in zip(found.layers, activations(rectified, x), activations(spiking, x), strict=True):
        bound = layer.threshold
        nearest = (exact / bound * 4 + 0.5).floor().clamp(0, 4)
        assert layer.floor == pytest.approx(float((nearest * bound / 4 - exact).abs().mean()), rel=1e-4)
        assert layer.error == pytest.approx(float((counts * bound / 4 - exact).abs().mean()), rel=1e-4)
        assert abs(layer.mismatches["successes"] - int((nearest != counts).sum())) <= 2  # rounding at a border
        assert layer.floor < layer.own_error <= layer.error
        assert layer.tie is None
    assert found.layers[0].own_error == found.layers[0].error
    assert found.spikes == pytest.approx(float(sum(c.sum() for c in activations(spiking, x))) / len(few))


def test_half_a_threshold_rounds_a_constant_current(rectified, samples, few):
    """A layer alone: with V0 = V/2 the spike count is the nearest one, without it is the one below."""
    half, none = (
        compare(rectified, convert(rectified, "balance", steps=6, calibration=Calibration(samples, initial=initial)), few).layers
        for initial in (0.5, 0.0)
    )
    for rounded, floored in zip(half, none, strict=True):
        assert rounded.own_mismatches["successes"] <= 3
        assert rounded.own_error == pytest.approx(rounded.floor, rel=1e-3)
        assert floored.own_error > 1.5 * rounded.own_error


def test_calibration_brings_back_what_few_steps_lose(rectified, samples, digits_test):
    plain, light = (
        compare(rectified, convert(rectified, method, steps=4, calibration=Calibration(samples)), digits_test)
        for method in ("balance", "calibrate")
    )
    assert plain.ann_accuracy["value"] > 0.95
    assert plain.accuracy["value"] < 0.6
    assert light.accuracy["value"] > 0.9
    for mine, theirs in zip(light.layers, plain.layers, strict=True):
        assert mine.error < 0.6 * theirs.error


def test_a_hybrid_start_is_the_balanced_network_in_neurons_that_learn(rectified, samples, few, tmp_path):
    x = images(few)
    given = Calibration(samples, scale=0.7)
    balanced = convert(rectified, "balance", steps=4, calibration=given)
    start = hybrid_start(rectified, 4, given, surrogate="atan", width=0.5)
    diet = hybrid_start(rectified, 4, given, learn=True)
    with torch.no_grad():
        for network in (start, diet, trustsnn.load(trustsnn.save(diet, tmp_path / "diet"))):
            assert torch.equal(network.eval()(x), balanced(x))
    neurons = [layer for layer in start.layers if isinstance(layer, SpikingNeuron)]
    assert {type(neuron) for neuron in neurons} == {SpikingNeuron}
    assert {neuron.estimator.surrogate.name for neuron in neurons} == {"atan"}
    assert sum(p.dim() == 0 for p in diet.parameters()) == 2 * len(neurons)
    assert not any(p.dim() == 0 for p in start.parameters())
    full = convert(rectified, "balance", steps=4, calibration=Calibration(samples))
    for mine, theirs in zip(balanced.layers, full.layers, strict=True):
        assert not isinstance(mine, Calibrated) or mine.bound == pytest.approx(0.7 * theirs.bound)


@pytest.mark.parametrize("learn", [False, True])
def test_a_hybrid_start_of_a_qcfs_network_is_its_rate_conversion(ann, few, learn):
    x = images(few)
    start = hybrid_start(ann, 4, learn=learn)
    with torch.no_grad():
        assert torch.equal(start.eval()(x), convert(ann, "rate", steps=4)(x))
    neurons = [layer for layer in start.layers if isinstance(layer, SpikingNeuron)]
    assert {neuron.dynamics.initial for neuron in neurons} == {0.5}
    assert sum(p.dim() == 0 for p in start.parameters()) == 2 * learn * len(neurons)


def test_a_hybrid_start_takes_what_fits_the_kind_of_ann(ann, rectified, samples):
    with pytest.raises(ConfigError, match="takes samples of the training split"):
        hybrid_start(rectified, 4)
    with pytest.raises(ConfigError, match="learnt its thresholds: hybrid training of one takes no calibration"):
        hybrid_start(ann, 4, Calibration(samples))
    with pytest.raises(ConfigError, match=r"all ReLU or all QCFS\. Train one with: trustsnn train ann, or: trustsnn train qcfs"):
        hybrid_start(convert(ann, "rate", steps=4), 4)


def test_bad_conversions_are_refused(ann, rectified, samples):
    given = Calibration(samples)
    for arguments, message in (
        ((ann, "balance", 4, given), "layers are all ReLU. Train one with: trustsnn train ann"),
        ((rectified, "rate", 4, None), "got ReLU. Train one with: trustsnn train qcfs"),
        ((rectified, "balance", 4, None), "takes samples of the training split"),
        ((rectified, "calibrate", None, given), "at least 1 for the conversion 'calibrate', got None"),
        ((rectified, "magic", 4, given), "Known: .*bit-serial.*, calibrate-advanced"),
    ):
        network, method, steps, calibration = arguments
        with pytest.raises(ConfigError, match=message):
            convert(network, method, steps=steps, calibration=calibration)
    with pytest.raises(ConfigError, match=r"by calibration, got SpikingNeuron at layers\.1"):
        compare(rectified, hybrid_start(rectified, 4, given), samples)
    dead = copy.deepcopy(rectified)
    with torch.no_grad():
        dead.layers[1].bias.fill_(-1000.0)
    with pytest.raises(ConfigError, match=r"Expected layers.2 to be active"):
        convert(dead, "balance", steps=4, calibration=given)


@pytest.mark.parametrize(("iterations", "farthest"), [(1, 4e-5), (3, 4e-5 * (1 + 0.75 + 0.25))])
def test_weights_are_fitted_by_adam_with_a_cosine(rectified, samples, iterations, farthest):
    """Where a gradient keeps its sign, Adam moves a weight by the rate of each iteration: 4e-5 (Li 2021) in the ANN's units, falling as a
    cosine."""
    given = Calibration(samples, iterations=iterations)
    plain, fitted = (convert(rectified, method, steps=8, calibration=given) for method in ("calibrate", "calibrate-advanced"))
    neurons = [layer for layer in plain.layers if isinstance(layer, Calibrated)]
    weights = [[layer.weight for layer in network.layers if hasattr(layer, "weight")] for network in (plain, fitted)]
    moved = [
        float((after - before).detach().abs().max()) * neuron.bound / unit
        for before, after, neuron, unit in zip(*weights, neurons, [1.0, *(neuron.bound for neuron in neurons)], strict=False)
    ]
    assert len(moved) == len(neurons) == 3
    assert max(moved) == pytest.approx(farthest, rel=0.02)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        (Branches([nn.Conv2d(8, 8, 1), QCFS(7)], []), "got the merge 'add' of spikes"),  # as a SEW-ResNet
        (Branches([nn.Conv2d(8, 8, 1)], [], merge="and"), "got the merge 'and'"),
        (Branches([], []), "got the merge 'add'"),
        (Branches([QCFS(7), nn.Conv2d(8, 8, 1)], []), r"layers\.3\.0\.0 follow no weights"),  # as an MS-ResNet
    ],
)
def test_branches_that_are_no_sum_of_currents_are_refused(ann, branches, message):
    changed = copy.deepcopy(ann)
    changed.layers = nn.Sequential(*ann.layers[:3], branches, QCFS(7), *ann.layers[3:])
    with pytest.raises(ConfigError, match=message):
        convert(changed, "rate", steps=4)


def test_a_residual_network_is_balanced_and_not_calibrated(samples):
    ann = build("resnet-small", input_shape=(1, 8, 8), classes=10, channels=0.25, neuron="relu")
    train(ann, samples, TrainConfig(epochs=3, batch_size=32, learning_rate=8e-3))
    given = Calibration(samples)
    found = compare(ann, convert(ann, "balance", steps=512, calibration=given), samples)
    assert found.agreement["value"] > 0.9
    assert len(found.layers) == 7
    for method in ("calibrate", "calibrate-advanced"):
        with pytest.raises(ConfigError, match=r"neurons inside layers\.3: networks with branches"):
            convert(ann, method, steps=4, calibration=given)


@pytest.mark.parametrize(
    "bad", [{"percentile": 0.0}, {"percentile": 101.0}, {"scale": 0.0}, {"iterations": 0}, {"initial": float("nan")}]
)
def test_bad_settings_are_refused(samples, bad):
    with pytest.raises(ConfigError, match="Expected"):
        Calibration(samples, **bad)


def test_relu_takes_images_as_they_are():
    for wrong, message in (
        ({"encoder": "poisson"}, "encoder 'direct'"),
        ({"readout": "spike-count"}, "readout 'spike-count'"),
    ):
        with pytest.raises(ConfigError, match=message):
            build("mlp", input_shape=(1, 8, 8), classes=3, neuron="relu", **wrong)
