"""Counted operations against sums over loops, and the metrics that come of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from trustsnn.blocks import frozen, observe
from trustsnn.checkpoint import model_hash
from trustsnn.energy import count, metrics
from trustsnn.energy.means import mean, ratio
from trustsnn.energy.neurobench import intervals
from trustsnn.energy.operations import attention_operations, outputs_of, synaptic_operations
from trustsnn.errors import ConfigError
from trustsnn.interop import wrap
from trustsnn.models import build
from trustsnn.training import accuracy


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=2, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2, padding=(1, 2)),
        nn.Conv1d(4, 2, 3, padding=2),
        nn.Linear(4, 3),
    ],
    ids=str,
)
def test_an_operation_is_a_weight_that_is_not_0_and_an_input_that_is_not_0(layer):
    draws = torch.Generator().manual_seed(0)
    shape = {nn.Conv2d: (3, 4, 5, 5), nn.Conv1d: (3, 4, 5), nn.Linear: (3, 4)}[type(layer)]
    x = (torch.rand(shape, generator=draws) < 0.5).float()
    with torch.no_grad():
        layer.weight[torch.rand(layer.weight.shape, generator=draws) < 0.3] = 0
        work = type(layer).__new__(type(layer))
        work.__dict__ = dict(layer.__dict__)
        work._parameters = {"weight": nn.Parameter((layer.weight != 0).float()), "bias": None}
        found = synaptic_operations(layer, x != 0)
        assert torch.equal(found, work(x).flatten(1).sum(1).double())
        work._parameters["weight"] = nn.Parameter(torch.ones_like(layer.weight))
        dense = synaptic_operations(layer, torch.ones_like(x), dense=True)
        assert torch.equal(dense, work(torch.ones_like(x)).flatten(1).sum(1).double())
        assert outputs_of(layer, x[:1]) == layer(x)[0].numel()
    assert 0 < found.sum() < dense.sum()


def test_products_of_attention():
    draws = torch.Generator().manual_seed(0)
    q, k, v = ((torch.rand(2, 6, 2, 2, generator=draws) < 0.4).double() for _ in range(3))
    expected = torch.zeros(2, dtype=torch.float64)
    for sample in range(2):
        for head in range(3):
            rows = slice(2 * head, 2 * head + 2)
            a, b, c = (part[sample, rows].flatten(1) for part in (q, k, v))
            expected[sample] += sum((b[i, t] * c[j, t] for t in range(4) for i in range(2) for j in range(2)), torch.tensor(0.0))
            expected[sample] += a.sum() * 2
    assert torch.equal(attention_operations([q, k, v], 3), expected)
    assert attention_operations([q, k, v], 3, dense=True).tolist() == [2 * 3 * 4 * 2 * 2] * 2


def test_a_network_is_counted_as_it_computes(digits_model, some, counts):
    before = model_hash(digits_model)
    assert counts.accuracy == accuracy(digits_model, some)
    x = torch.from_numpy(some.batch(np.arange(len(some)))[0])
    with frozen(digits_model):
        seen = observe(digits_model, x).spikes
    assert {each.name: (each.spikes.sum(), each.places * len(some)) for each in counts.neurons} == seen
    first, *_, last = counts.layers
    layer = digits_model.layers[0]
    ones = conv2d((x != 0).double(), torch.ones_like(layer.weight).double(), padding=1)
    assert np.array_equal(first.effective, ones.flatten(1).sum(1).numpy())
    assert (first.calls, last.calls, first.accumulates, last.accumulates) == (1, 4, False, True)
    assert np.array_equal(last.effective, counts.neurons[-1].spikes * 10)
    assert last.dense == 4 * 64 * 10
    assert model_hash(digits_model) == before
    loop = count(digits_model, some, every_step=True)
    assert np.array_equal(loop.layers[0].effective, 4 * first.effective)
    assert loop.layers[0].dense == 4 * first.dense
    assert all(np.array_equal(a.effective, b.effective) for a, b in zip(loop.layers[1:], counts.layers[1:], strict=True))


def test_a_sample_counts_the_same_in_whatever_company_and_its_spikes_behind_a_pooling_add_up(some, counts, digits_model):
    alone = count(digits_model, some.select([3, 7]))
    for one, all_ in zip(alone.layers, counts.layers, strict=True):
        assert np.array_equal(one.effective, all_.effective[[3, 7]])
        assert np.array_equal(one.once, all_.once[[3, 7]])
    pooled = {layer.name for layer in counts.layers if layer.additions is not None}
    assert pooled == {"layers.4", "layers.9"}
    linear = next(layer for layer in counts.layers if layer.name == "layers.9")
    assert linear.additions == pytest.approx(counts.neurons[1].spikes * 64)
    assert all((layer.once <= layer.effective).all() for layer in counts.layers)


def test_scaled_spikes_are_additions_and_averages_are_not(some):
    network = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.2, neuron="qcfs", levels=1, threshold=0.5)
    found = count(network.eval(), some)
    assert found.layers[-1].accumulates  # 0 and lam
    assert found.layers[-1].high != 1
    assert not found.layers[1].accumulates


def test_metrics_have_the_keys_and_the_parts_add_up(digits_model, counts):
    found = metrics(counts)
    assert list(found) == [
        "Footprint", "ConnectionSparsity", "ParameterCount", "ClassificationAccuracy", "ActivationSparsity", "SynapticOperations",
        "MembraneUpdates", "NeuronOperations",
    ]  # fmt: skip
    state = [*digits_model.parameters(), *digits_model.buffers()]
    assert found["Footprint"] == sum(each.numel() * each.element_size() for each in state)
    synaptic = found["SynapticOperations"]
    assert synaptic["Effective_ACs"] == counts.layers[-1].effective.mean()
    total = sum(layer.effective.mean() for layer in counts.layers)
    assert synaptic["Effective_MACs"] + synaptic["Effective_ACs"] == pytest.approx(total)
    assert 0 < found["MembraneUpdates"] <= counts.places
    assert found["NeuronOperations"]["Effective Neuron Ops"] == 4 * found["MembraneUpdates"]
    assert intervals(counts)["ActivationSparsity"]["value"] == pytest.approx(found["ActivationSparsity"])


def test_updates_are_membranes_that_a_step_changes(some):
    network = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.05, steps=3, norm="none")
    with torch.no_grad():
        for layer in (network.layers[1], network.layers[3]):
            layer.weight.zero_()
            layer.bias.zero_()
        network.layers[1].bias[:2] = torch.tensor([0.1, 5.0])  # one that fills up, and one that fires at every step
    found = count(network.eval(), some)
    neurons = found.neurons[0].neurons
    assert (found.neurons[0].updates == neurons + 2).all()  # all at the first step, then the first neuron twice
    assert (found.neurons[1].updates == found.neurons[1].neurons).all()


def test_a_network_with_branches_and_attention(some):
    network = build("spikformer-small", input_shape=(1, 8, 8), classes=10, channels=0.25, steps=2)
    found = count(network.eval(), some.select(range(4)))
    attention = [layer for layer in found.layers if layer.attention]
    assert len(attention) == 1
    assert attention[0].accumulates
    assert attention[0].name not in {layer.name for layer in found.weighted}
    assert found.dense == sum(layer.dense for layer in found.weighted)


def test_a_module_of_ones_own_and_a_stochastic_network(some, poisson_model):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    found = count(wrap(module, domain="image", time_steps=1), some)
    assert [layer.dense for layer in found.layers] == [320, 50]
    assert [each.name for each in found.neurons] == ["module.2"]
    assert metrics(found)["MembraneUpdates"] is None
    again = [count(poisson_model, some.select(rows)).macs for rows in ([0, 1, 2], [2])]
    assert again[0][2] == again[1][0]
    with pytest.raises(ConfigError, match="no convolution or linear layer"):
        count(wrap(nn.Flatten(), domain="image", time_steps=1, classes=64), replace(some))


def test_means_and_ratios_of_samples():
    values = np.random.default_rng(0).normal(5, 1, (400, 20))
    inside = [mean(row)["low"] <= 5 <= mean(row)["high"] for row in values]
    assert 0.92 <= np.mean(inside) <= 0.98
    before = np.random.default_rng(1).uniform(1, 3, (400, 30))
    after = 1.5 * before + np.random.default_rng(2).normal(0, 0.3, before.shape)
    found = [ratio(a, b) for a, b in zip(after, before, strict=True)]
    assert 0.92 <= np.mean([each["low"] <= 1.5 <= each["high"] for each in found]) <= 0.98
    assert ratio([2.0, 4.0], [1.0, 2.0]) == {"value": 2.0, "low": 2.0, "high": 2.0, "count": 2}
    assert ratio([1.0], [0.0])["value"] is None
    assert mean([3.0]) == {"value": 3.0, "low": None, "high": None, "count": 1}
