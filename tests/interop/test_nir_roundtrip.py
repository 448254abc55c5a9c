"""NIR files of our networks: round trips, what is said and refused, conformance, and the commands."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import trustsnn
from trustsnn.errors import ConfigError, TrustSNNError, UnsafeArtifactError
from trustsnn.interop import nir
from trustsnn.interop.conformance import compare
from trustsnn.models import SpikingNetwork, build
from trustsnn.neurons import Dynamics, SpikingNeuron
from trustsnn.neurons.estimator import neurons_of

DATA = Path(__file__).parent / "data"

BUNDLED = {
    "mlp": {"encoder": "poisson", "readout": "spike-count", "threshold": 0.2},
    "conv": {"reset": "soft", "leak": 0.9},
    "vgg9": {"learn": True, "leak": 0.7, "threshold": 0.6},
    "vgg11": {"leak": 1.0},
    "resnet-small": {},
    "sew-resnet-small": {},
    "sew-resnet18": {"channels": 0.05},
    "ms-resnet-small": {},
    "ms-resnet18": {"channels": 0.05},
}


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_come_back_to_the_bit(name, tmp_path):
    options = {"channels": 0.1, "norm": "none" if name == "mlp" else "batch", **BUNDLED[name]}
    model = build(name, input_shape=(1, 16, 16), classes=10, **options)
    x = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):  # so that every layer fires
            torch.nn.init.uniform_(layer.weight, 0.8, 1.5, torch.Generator().manual_seed(2))
            torch.nn.init.constant_(layer.bias, 0.4)
    for _ in range(3):
        model(x, torch.Generator().manual_seed(0))
    model.eval()
    nir.write(model, tmp_path / "m.nir", dt=1e-3)
    again = nir.read(tmp_path / "m.nir")
    assert type(again) is SpikingNetwork
    assert again.spec == model.spec
    found = compare(model, again, x)
    assert len(found.layers) == len(neurons_of(model))
    assert all(layer.mismatches == 0 and layer.rate.value > 0 for layer in found.layers)
    assert found.logits == 0


def test_event_networks_come_back(tmp_path):
    model = build("conv", input_shape=(3, 2, 8, 8), classes=4, steps=3, domain="events-count", max_count=5, channels=0.1).eval()
    nir.write(model, tmp_path / "m.nir", dt=1e-3)
    again = nir.read(tmp_path / "m.nir")
    x = torch.randint(0, 6, (4, 3, 2, 8, 8)).float()
    assert again.spec == model.spec
    assert torch.equal(again(x), model(x))


def test_what_plain_nir_does_not_say_is_a_warning(tmp_path):
    model = build(
        "mlp", input_shape=(1, 2, 2), classes=2, channels=0.01, norm="none", reset="soft", initial=0.5, encoder="latency"
    )
    warnings = nir.write(model, tmp_path / "m.nir", dt=1e-3).warnings
    assert [next(w for w in warnings if word in w) for word in ("(soft)", "v >= V", "at 0.5 V", "'latency'")] == [
        warnings[0], warnings[1], warnings[2], warnings[3]
    ]  # fmt: skip
    assert "(nodes 2, 4)" in warnings[0]
    again = nir.read(tmp_path / "m.nir")
    assert [n.dynamics for n in neurons_of(again)] == [n.dynamics for n in neurons_of(model)]
    plain = build("mlp", input_shape=(1, 2, 2), classes=2, channels=0.01, norm="none")
    for neuron in neurons_of(plain):
        neuron.dynamics = replace(neuron.dynamics, comparator=">")
    assert nir.write(plain, tmp_path / "m.nir", dt=1e-3).warnings == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("spikformer-small", {}, "'9' has no place in NIR: MaxPool2d"),
        ("sew-resnet-small", {"merge": "iand"}, "merge by 'iand'"),
        ("conv", {"norm": "bntt"}, "'1' has no place in NIR: BatchNormThroughTime"),
        ("conv", {"neuron": "qcfs"}, "'2' has no place in NIR: QCFS neurons"),
        ("conv", {"neuron": "bit-serial", "norm": "none"}, "A bit-serial network has no place in NIR"),
        (
            "conv",
            {"neuron": "calibrated", "potentials": [[8, 8, 8], [16, 4, 4], [32]]},
            "'2' has no place in NIR: neurons with initial",
        ),
    ],
)
def test_what_nir_cannot_say_is_refused_by_its_layer(name, options, message, tmp_path):
    model = build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, **options).eval()
    with pytest.raises(ConfigError, match=message):
        nir.write(model, tmp_path / "m.nir", dt=1e-3)
    assert not (tmp_path / "m.nir").exists()


@pytest.mark.parametrize("leaky", ["unit", "leaky"])
def test_leak_and_gain_come_back_to_the_bit(leaky, tmp_path):
    for leak in np.random.default_rng(0).random(20, np.float32).tolist():
        neuron = SpikingNeuron(Dynamics(leak, 0.7, gain=leaky))
        layers = torch.nn.Sequential(torch.nn.Linear(4, 4), neuron, torch.nn.Linear(4, 2))
        spec = build("mlp", input_shape=(1, 1, 4), classes=2).spec
        nir.write(SpikingNetwork(layers, replace(spec, input_shape=(4,)), {}), tmp_path / "m.nir", dt=1e-3)
        (again,) = neurons_of(nir.read(tmp_path / "m.nir"))
        assert (float(again.leak), again.dynamics.gain) == (leak, leaky)


def test_flipped_files_are_read_or_refused(tmp_path):
    model = build("sew-resnet-small", input_shape=(1, 8, 8), classes=3, channels=0.02).eval()
    nir.write(model, tmp_path / "m.nir", dt=1e-3)
    good, draw, kinds = (tmp_path / "m.nir").read_bytes(), random.Random(0), set()
    for _ in range(150):
        content = bytearray(good)
        for _ in range(3):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "f.nir").write_bytes(content)
        try:
            nir.read(tmp_path / "f.nir")
            kinds.add(None)
        except TrustSNNError as error:
            kinds.add(type(error))
    assert {None, UnsafeArtifactError} <= kinds <= {None, UnsafeArtifactError, ConfigError}


def test_conformance_counts_every_spike_that_differs(tmp_path):
    model = build("mlp", input_shape=(1, 4, 4), classes=3, channels=0.1, norm="none", threshold=0.2).eval()
    nir.write(model, tmp_path / "m.nir", dt=1e-3)
    other = nir.read(tmp_path / "m.nir")
    neurons_of(other)[1].threshold *= 0.8
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    found = compare(model, other, x, y)
    first, second = found.layers
    one, two = model.distances(x)[1]["layers.4"] >= 0, other.distances(x)[1]["layers.4"] >= 0
    assert (first.mismatches, second.mismatches, second.places) == (0, int((one != two).sum()), one.numel())
    assert second.mismatches > 0
    assert second.drift.value == pytest.approx(float(two.double().mean() - one.double().mean()))
    assert second.drift.low < second.drift.value < second.drift.high
    changed = int((other(x).argmax(1) != y).sum())
    assert changed > 0
    assert found.predictions.value == changed / 40
    assert found.accuracy.value == -changed / 40
    assert found.accuracy.high - found.accuracy.low < 0.5
    assert len(found.lines()) == 5


def call(*arguments):
    from trustsnn.cli.main import main

    with pytest.raises(SystemExit) as exit:
        main([str(argument) for argument in arguments])
    return exit.value.code


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_export_inspect_and_audit_of_a_nir_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trustsnn.save(build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, norm="none", threshold=0.2), "digits")
    assert call("export", "digits", "--format", "nir", "--dt", "1e-3", "--out", "m.nir", "--data", "digits", "--samples", 40) == 0
    said = capsys.readouterr()
    assert "warning: plain NIR spikes where v > V" in said.err
    assert "layers.2: 0 of 4,160 spikes differ" in said.out
    assert "accuracy difference: +0.00%" in said.out
    assert call("inspect", "m.nir", "--data", "digits") == 0
    assert "SpikingNeuron(leak=0.5" in capsys.readouterr().out
    assert call("inspect", DATA / "snntorch.nir") == 2
    assert call("inspect", f"{DATA / 'snntorch.nir'}:dt=1e-4,time_steps=5") == 0
    (tmp_path / "cut.nir").write_bytes((tmp_path / "m.nir").read_bytes()[:-100])
    assert call("inspect", "cut.nir") == 4
    assert call("export", "digits", "--dt", "1e-3", "--out", "m.onnx") == 2
    run = ("--data", "digits", "--samples", 16, "--attacks", "fgsm", "--eps", "0.1")
    assert call("audit", "m.nir", *run, "--out", "a") == call("audit", "digits", *run, "--out", "b")
    one, two = (json.loads((tmp_path / name / "report.json").read_text())["cells"] for name in "ab")
    assert [(cell["accuracy"], cell["spike_rates"]) for cell in one] == [(cell["accuracy"], cell["spike_rates"]) for cell in two]
