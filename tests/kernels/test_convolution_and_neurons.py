"""A convolution and the neurons behind it as one: the same bits as one after the other, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trustsnn.models.network as network
from trustsnn.blocks import frozen, input_gradient, predict
from trustsnn.kernels import accelerated, convolution, lif, native
from trustsnn.kernels.convolution import Geometry
from trustsnn.models import build
from trustsnn.neurons import STBP, Dynamics, SpikingNeuron, Surrogate
from trustsnn.neurons.convolved import can_convolve
from trustsnn.neurons.synapses import Synapses

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels were not built here")

BATCH, STEPS = 5, 3


@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize("keep", ["nothing", "full", "half"])
@pytest.mark.parametrize("given", [1, STEPS])
@pytest.mark.parametrize(("outputs", "stride", "groups"), [(7, 1, 1), (64, 1, 1), (40, 2, 4)])
@pytest.mark.parametrize(("hard", "strict"), [(True, False), (False, True)])
def test_kernel_gives_the_bits_of_convolution_then_neurons(lanes, keep, given, outputs, stride, groups, hard, strict):
    known = native.library()
    best = known.trustsnn_lanes(0)
    if known.trustsnn_lanes(lanes) != lanes:
        known.trustsnn_lanes(best)
        pytest.skip(f"this processor has no vectors of {lanes} floats")
    try:
        torch.manual_seed(outputs)
        x = (torch.rand(given * BATCH, 16, 9, 7) < 0.2).float()
        weight, bias = torch.randn(outputs, 16 // groups, 3, 3) / 3, torch.randn(outputs) / 3
        geometry = Geometry((stride, stride), (1, 1), (1, 1), groups)
        packed = convolution.pack(weight, groups)
        layer = lif.Layer(0.9, 1.0, 1.0, 0.25, hard, strict, False, False)
        spikes, membrane = convolution.fire(x, packed, bias, geometry, STEPS, given, layer, keep)
        current = convolution.convolve(x, packed, bias, geometry).unflatten(0, (given, BATCH))
        expected, kept = lif.forward(current, STEPS, layer, keep)
        assert torch.equal(spikes, expected)
        assert torch.equal(membrane, kept)
        assert 0 < float(spikes.mean()) < 1
    finally:
        known.trustsnn_lanes(best)


@pytest.mark.parametrize(
    ("name", "keep"), [("conv", "full"), ("conv", "half"), ("conv", "recompute"), ("sew-resnet-small", "full")]
)
def test_fixed_networks_give_the_same_bits_joined_and_apart(monkeypatch, name, keep):
    if accelerated(torch.zeros(1)) != "native":
        pytest.skip("the native kernels are switched off")
    torch.manual_seed(3)
    model = build(name, input_shape=(1, 16, 16), classes=10, steps=STEPS, channels=0.25, threshold=0.1)
    for module in model.modules():
        if isinstance(module, SpikingNeuron):
            module.keep = keep
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.05)
    x, y = torch.rand(BATCH, 1, 16, 16), torch.arange(BATCH)
    joined = []
    results = []
    for on in (True, False):
        monkeypatch.setattr(network, "can_convolve", lambda *a, on=on: on and can_convolve(*a) and not joined.append(a))
        with frozen(model):
            found = input_gradient(model, x, y, lambda logits, labels: logits.gather(1, labels[:, None])[:, 0])
            results.append((predict(model, x), found.logits, found.direction, model.unroll(x).spike_counts))
    assert joined
    for one, other in zip(results[0][:3], results[1][:3], strict=True):
        assert torch.equal(one, other)
    assert results[0][3].keys() == results[1][3].keys()
    assert all(torch.equal(results[0][3][layer], results[1][3][layer]) for layer in results[0][3])
    assert float(results[0][2].abs().max()) > 0


class _Other(SpikingNeuron):
    pass


def test_only_fixed_convolutions_and_plain_neurons_are_joined():
    if accelerated(torch.zeros(1)) != "native":
        pytest.skip("the native kernels are switched off")
    x = torch.zeros(4, 16, 8, 8)
    fixed, learning = (Synapses(nn.Conv2d(16, 32, 3).requires_grad_(learns)) for learns in (False, True))
    neuron = SpikingNeuron()
    assert can_convolve(fixed, neuron, x, True, 4)
    assert not can_convolve(learning, neuron, x, True, 4)
    assert not can_convolve(fixed, _Other(), x, True, 4)
    assert not can_convolve(Synapses(nn.Linear(16, 8).requires_grad_(False)), neuron, x[:, :, 0, 0], True, 4)
    assert not can_convolve(
        Synapses(nn.Conv2d(32, 32, 3).requires_grad_(False)), neuron, torch.zeros(4, 32, 8, 8), False, 4
    )  # tiles
    assert not can_convolve(fixed, SpikingNeuron(learn=True), x, True, 4)
    assert not can_convolve(fixed, neuron, x.double(), True, 4)
    neuron.estimator = STBP(Surrogate("atan"))
    neuron.keep = "recompute"
    assert can_convolve(fixed, neuron, x, True, 4)  # nothing is kept without a gradient
    assert not can_convolve(fixed, neuron, x.requires_grad_(), True, 4)
    assert can_convolve(fixed, SpikingNeuron(Dynamics(gain="leaky")), x, True, 4)
