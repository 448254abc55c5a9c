"""QCFS against its formula in plain autograd, the penalty of bits, and QCFS networks as models like any other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad, vmap

import trustsnn
from trustsnn.attacks import PGD
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError
from trustsnn.models import build, check_contract
from trustsnn.neurons.qcfs import QCFS
from trustsnn.training import accuracy


class Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.floor()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Bits(torch.autograd.Function):
    """The bits of a level, most significant first; backward their mean."""

    @staticmethod
    def forward(ctx, level, steps):
        return torch.stack([(level.long() >> place & 1).to(level.dtype) for place in reversed(range(steps))])

    @staticmethod
    def backward(ctx, gradient):
        return gradient.mean(0), None


def reference(h, lam, levels):
    n = torch.clamp(Floor.apply(h * (levels / lam) + 0.5), 0, levels)
    return n * (lam / levels), n


def pair(levels, lam, sparsity=0.0):
    """The layer, and its threshold for the reference."""
    layer = QCFS(levels, lam, sparsity).double()
    return layer, layer.threshold.detach().clone().requires_grad_()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 7, 15, 255]), st.floats(0.05, 20))
def test_qcfs_equals_its_formula_forward_and_backward(seed, levels, lam):
    layer, own = pair(levels, lam)
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(1, 4, 30, dtype=torch.float64, generator=generator) * lam
    h[0, 0, :4] = torch.tensor([0.0, lam, -lam / (2 * levels), lam * (1 + 1 / levels)])
    weight = torch.randn(h.shape, dtype=torch.float64, generator=generator)
    mine, theirs = h.clone().requires_grad_(), h.clone().requires_grad_()
    got, expected = layer(mine), reference(theirs, own, levels)[0]
    assert torch.equal(got, expected)
    for activation in (got, expected):
        (activation * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(layer.threshold.grad, own.grad)


def test_qcfs_by_hand():
    layer = QCFS(4, 2.0)
    h = torch.tensor([-1.0, 0.24, 0.25, 0.74, 0.75, 1.9, 2.0, 9.0]).view(1, 8)
    assert layer(h).flatten().tolist() == [0, 0, 0.5, 0.5, 1, 2, 2, 2]
    assert layer.level(h).flatten().tolist() == [0, 0, 1, 1, 2, 4, 4, 4]
    with torch.no_grad():
        layer.threshold.fill_(-5.0)
    assert layer.bound == pytest.approx(1e-3, rel=1e-3)  # and the gradient still reaches it
    layer(h.requires_grad_()).sum().backward()
    assert layer.threshold.grad != 0


@pytest.mark.parametrize("training", [True, False])
def test_the_penalty_of_bits_adds_its_gradient_in_training_alone(training):
    torch.manual_seed(0)
    layer, lam = pair(7, 1.5, 0.3)
    layer.train(training)
    h = torch.randn(1, 5, 20, dtype=torch.float64)
    mine, theirs = h.clone().requires_grad_(), h.clone().requires_grad_()
    layer(mine).square().sum().backward()
    activation, level = reference(theirs, lam, 7)
    bits = Bits.apply(level, 3)
    assert torch.equal((bits * torch.tensor([4.0, 2, 1]).view(3, 1, 1, 1)).sum(0), level)
    loss = activation.square().sum() + (0.3 * bits.sum() if training else 0)
    loss.backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(layer.threshold.grad, lam.grad)


def test_a_qcfs_network_is_a_model_like_any_other(ann, few, tmp_path):
    assert ann.spec.steps == 1
    assert accuracy(ann, few)["value"] > 0.7
    x = torch.from_numpy(few.batch(range(9))[0])
    again = trustsnn.load(trustsnn.save(ann, tmp_path / "ann"))
    assert torch.equal(again(x), ann(x))
    assert model_hash(again) == model_hash(ann)
    assert check_contract(ann, x, 10) == []
    images, labels = map(torch.from_numpy, few.batch(range(60)))
    adversarial = PGD(eps=0.2, steps=5)(ann, images, labels)
    assert float((ann(adversarial).argmax(1) == labels).float().mean()) < 0.3


def test_gradients_of_single_samples():
    layer = QCFS(7, 1.5, 0.1)
    h = torch.randn(4, 1, 2, 30, generator=torch.Generator().manual_seed(0))

    def loss(parameters, current):
        return functional_call(layer, parameters, (current,)).square().sum()

    parameters = dict(layer.named_parameters())
    each = vmap(grad(loss), (None, 0))(parameters, h)["threshold"]
    torch.testing.assert_close(each, torch.stack([grad(loss)(parameters, part)["threshold"] for part in h]))


def test_every_threshold_is_learnt(ann):
    learnt = [layer.bound for layer in ann.layers if isinstance(layer, QCFS)]
    assert len(learnt) == 3
    assert all(abs(bound - 4.0) > 1e-3 for bound in learnt)


def test_other_networks_keep_their_architecture_and_hash():
    arguments = build("mlp", input_shape=(1, 8, 8), classes=3).architecture["arguments"]
    assert not {"neuron", "levels", "sparsity", "initial"} & set(arguments)
    assert arguments["threshold"] == 1.0
    assert build("mlp", input_shape=(1, 8, 8), classes=3, neuron="qcfs").architecture["arguments"]["threshold"] == 8.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neuron": "gelu"}, "Known: lif, qcfs, bit-serial"),
        ({"neuron": "qcfs", "levels": 0}, "levels from 1"),
        ({"neuron": "qcfs", "levels": 2.0}, "levels from 1"),
        ({"neuron": "qcfs", "sparsity": -1.0}, "at least 0"),
        ({"neuron": "qcfs", "threshold": 0.0}, "positive threshold"),
        ({"neuron": "qcfs", "encoder": "poisson"}, "encoder 'direct'"),
        ({"neuron": "qcfs", "readout": "spike-count"}, "readout 'spike-count'"),
        ({"neuron": "qcfs", "domain": "events-binary", "input_shape": (4, 2, 8, 8)}, "encoder 'direct'"),
        ({"neuron": "bit-serial"}, "norm 'none'"),
        ({"neuron": "bit-serial", "norm": "none", "steps": 17}, "1 to 16"),
        ({"readout": "bits"}, "readout 'bits'"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build(**{"name": "mlp", "input_shape": (1, 8, 8), "classes": 3, **arguments})
