"""Faults of neurons and synapses, and tampering with whole layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trustsnn.attacks.integrity import FAULTS, fault_curve, parameter_sweep
from trustsnn.attacks.integrity.bands import numbers
from trustsnn.attacks.integrity.faults import LEAST, MOST, FaultyNeurons, Place, injected, neuron_sizes, sites
from trustsnn.blocks import frozen
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.neurons import Dynamics, SpikingNeuron
from trustsnn.reports.integrity import lines
from trustsnn.runners.integrity import Plan, amounts, integrity
from trustsnn.training import accuracy


@pytest.fixture(scope="module")
def few(digits_test):
    return digits_test.take(40)


def counts(network, data):
    x = torch.from_numpy(data.batch(np.arange(len(data)))[0])
    with frozen(network), torch.no_grad():
        return network.unroll(x).spike_counts


def test_faulty_neurons_give_what_their_fault_says_and_all_others_what_they_gave(digits_model, few):
    name, steps = "layers.2", digits_model.spec.steps
    before = counts(digits_model, few)[name].flatten(1)
    places = [Place(name, place) for place in (0, 7, 500)]
    for kind, value in (("neuron-dead", 0.0), ("neuron-saturated", 1.0), ("neuron-stuck", 0.25)):
        with injected(digits_model, kind, places, [value] * 3):
            after = counts(digits_model, few)[name].flatten(1)
        assert (after[:, [0, 7, 500]] == steps * value).all()
        rest = np.setdiff1d(np.arange(before.shape[1]), [0, 7, 500])
        assert torch.equal(after[:, rest], before[:, rest])


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("gain", ["unit", "leaky"])
@pytest.mark.parametrize("comparator", [">=", ">"])
def test_a_neuron_with_another_parameter_fires_as_a_layer_with_that_parameter_does(reset, gain, comparator):
    settings = {"reset": reset, "gain": gain, "comparator": comparator, "initial": 0.25}
    current = 2 * torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))
    base = SpikingNeuron(Dynamics(leak=0.5, threshold=0.7, **settings))
    for parameter, factor in (("threshold", 2.0), ("leak", 0.3), ("leak", 3.0)):
        leak, threshold = (min(1.0, 0.5 * factor), 0.7) if parameter == "leak" else (0.5, 0.7 * factor)
        if gain == "leaky" and parameter == "leak":
            scaled = SpikingNeuron(Dynamics(leak=0.5, threshold=threshold, **settings))
            scaled.leak.fill_(leak)
            driven = current * 0.5 / (1 - leak) if leak < 1 else None
        else:
            scaled, driven = SpikingNeuron(Dynamics(leak=leak, threshold=threshold, **settings)), current
        faulty = FaultyNeurons(base, torch.tensor([2]), torch.tensor([factor]), parameter)
        found = faulty(current)
        if driven is not None:
            assert torch.equal(found[:, :, 2], scaled(driven)[:, :, 2])
        assert torch.equal(found[:, :, [0, 1, 3]], base(current)[:, :, [0, 1, 3]])
    constant = current[:1]
    faulty = FaultyNeurons(base, torch.tensor([1]), torch.tensor([1.0]), "threshold")
    assert torch.equal(faulty.fire(constant, 5), base.fire(constant, 5))


def drawn(kind, weights, count=400):
    places = np.arange(count) % len(weights)
    return FAULTS[kind].draw(np.random.default_rng(0), weights, places), weights[places]


def test_what_synapses_become():
    weights = np.random.default_rng(1).normal(size=1000)
    first, third = np.percentile(weights, (25, 75))
    assert (drawn("synapse-dead", weights)[0] == 0).all()
    assert drawn("synapse-saturated", weights)[0] == pytest.approx(third + 1.5 * (third - first))
    assert drawn("synapse-saturated-extreme", weights)[0] == pytest.approx(third + 3 * (third - first))
    after, before = drawn("synapse-perturbed", weights)
    assert ((after / before >= LEAST) & (after / before <= MOST)).all()
    assert (after / before).std() > 0.5
    stuck, _ = drawn("synapse-stuck", weights)
    assert weights.min() <= stuck.min() < -1
    assert 1 < stuck.max() <= weights.max()
    after, before = drawn("synapse-bit-flip", weights)
    scale = np.abs(weights).max() / 127
    different = (np.round(after / scale).astype(int) ^ np.round(before / scale).astype(int)) & 255
    assert sorted(set(different)) == [1 << bit for bit in range(8)]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_curve_begins_at_the_clean_accuracy_and_leaves_the_model_as_it_was(digits_model, few, kind):
    before = model_hash(digits_model)
    bands = fault_curve(digits_model, few, kind, (0, 300, 10**9), seeds=1)
    assert model_hash(digits_model) == before
    assert not any(isinstance(module, FaultyNeurons) for module in digits_model.modules())
    assert bands[0].figures == (accuracy(digits_model, few),)
    assert [band.count for band in bands] == [0, 300, sum(sites(digits_model, few, kind).values())]
    if kind in ("neuron-dead", "synapse-dead"):
        assert bands[-1].figures[0]["value"] < 0.4  # nothing gets through
    again = fault_curve(digits_model, few, kind, (300,), seeds=2)
    assert len(again[0].figures) == 2
    if kind == "neuron-saturated":
        assert bands[1].figures[0]["value"] < 0.98


def test_faults_of_a_smaller_number_are_among_those_of_a_larger_one(digits_model, few, monkeypatch):
    seen = []

    def spy(network, kind, places, values):
        seen.append((tuple(places), tuple(values)))
        return injected(network, kind, places, values)

    monkeypatch.setattr("trustsnn.attacks.integrity.faults.injected", spy)
    fault_curve(digits_model, few, "synapse-perturbed", (2, 8), seeds=2, layer="layers.0.weight")
    assert [len(places) for places, _ in seen] == [2, 8, 2, 8]
    assert all(seen[row][part] == seen[row + 1][part][:2] for row in (0, 2) for part in (0, 1))
    assert seen[0] != seen[2]
    assert {place.layer for places, _ in seen for place in places} == {"layers.0.weight"}


def test_layers_and_their_neurons(digits_model, few):
    assert neuron_sizes(digits_model, few) == {"layers.2": 16 * 64, "layers.6": 32 * 16, "layers.11": 64}
    with pytest.raises(ConfigError, match="Unknown fault"):
        fault_curve(digits_model, few, "neuron-tired", (1,))
    with pytest.raises(ConfigError, match="There is no"):
        fault_curve(digits_model, few, "neuron-dead", (1,), layer="layers.99")
    with pytest.raises(ConfigError, match="at least 1 seed"):
        fault_curve(digits_model, few, "neuron-dead", (1,), seeds=0)
    qcfs = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1, neuron="qcfs")
    with pytest.raises(ConfigError, match="leaky integrate-and-fire"):
        fault_curve(qcfs, few, "neuron-threshold", (1,), seeds=1)


def test_tampering_scales_one_parameter_of_whole_layers(digits_model, few):
    before = model_hash(digits_model)
    rows = parameter_sweep(digits_model, few, "threshold", (1.0, 100.0))
    assert model_hash(digits_model) == before
    assert [row["layer"] for row in rows] == [None, "layers.2", "layers.6", "layers.11"]
    clean = accuracy(digits_model, few)
    for row in rows:
        assert row["points"][0] == {"factor": 1.0, **clean}
        assert row["points"][1]["value"] < 0.4
    leak = parameter_sweep(digits_model, few, "leak", (2.0, 1000.0))
    assert leak[0]["points"][0]["value"] == leak[0]["points"][1]["value"]  # both are a leak of 1
    for arguments in (("weight", (1.0,)), ("leak", (0.0,)), ("leak", ())):
        with pytest.raises(ConfigError):
            parameter_sweep(digits_model, few, *arguments)


def test_numbers_of_faults_are_whole_or_shares_of_what_there_is():
    assert numbers(amounts("64, 0,0.1%,1%,100%"), 3000) == [0, 3, 30, 64, 3000]
    assert numbers((1, 1.0), 500) == [1, 500]
    assert numbers((0.001, 9), 7) == [1, 7]
    for wrong in ((), (-1,), (1.5,), (-0.1,), (float("nan"),)):
        with pytest.raises(ConfigError, match="shares in"):
            numbers(wrong, 10)
    for text in ("1,many", "%", "1.5"):
        with pytest.raises(ConfigError, match="percentages"):
            amounts(text)
    with pytest.raises(ConfigError, match="shares in"):
        Plan(per_layer=-1)


def test_the_default_campaign_goes_from_none_to_all_and_the_report_says_where_it_hurts(digits_model, few, tmp_path):
    plan = Plan(search=None, twin=False, faults=("neuron-saturated", "synapse-dead"), seeds=2, tampering=False)
    done = integrity(digits_model, few, few, tmp_path, plan)
    neurons, synapses = (np.array([band["count"] for band in entry["bands"]]) for entry in done.record["faults"])
    assert neurons.tolist() == [0, 2, 5, 16, 48, 160, 480, 1600]
    assert (synapses[0], synapses[-1]) == (0, sum(sites(digits_model, few, "synapse-dead").values()))
    assert {row["layer"]: row["count"] for row in done.record["by_layer"]}["layers.2"] == 102  # a tenth of 1024
    page = (tmp_path / "integrity.html").read_text()
    for entry in done.record["faults"]:
        means = [band["mean"]["value"] for band in entry["bands"]]
        assert means[0] == done.record["clean"]["value"]
        assert means[-1] < 0.4
        first = next(band for band in entry["bands"] if band["mean"]["value"] < 0.9 * means[0])
        assert f'number strong">{100 * first["mean"]["value"]:.1f}<' in page
        assert any(line.startswith(f"{entry['kind']}, {first['count']:,} of {entry['sites']:,}: ") for line in lines(done.record))
