"""Inputs that raise spikes, and the command that holds a gate on them."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.attacks.integrity import Sponge
from trustsnn.blocks import frozen
from trustsnn.errors import ConfigError
from trustsnn.interop import wrap


@pytest.fixture(scope="module")
def batch(digits_test):
    data = digits_test.take(12)
    return (*(torch.from_numpy(each) for each in data.batch(np.arange(12))), data.ids)


def spikes(model, x):
    with frozen(model), torch.no_grad():
        trace = model.unroll(x)
    return torch.stack([count.flatten(1).sum(1) for count in trace.spike_counts.values()]), trace.logits.mean(0).argmax(1)


def test_more_spikes_inside_the_ball(digits_model, batch):
    x, y, ids = batch
    made = Sponge(eps=0.1, steps=6)(digits_model, x, y, ids)
    assert float((made - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    before, after = spikes(digits_model, x)[0].sum(0), spikes(digits_model, made)[0].sum(0)
    assert (after >= before).all()
    assert after.sum() > 1.03 * before.sum()
    noise = x + 0.1 * torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert after.sum() > spikes(digits_model, noise.clamp(0, 1))[0].sum()


def test_latency_raises_the_busiest_layer_and_costs_weigh_layers(digits_model, batch):
    x, y, ids = batch
    busiest = spikes(digits_model, x)[0].sum(1).argmax()
    before = spikes(digits_model, x)[0][busiest].sum()
    assert spikes(digits_model, Sponge(eps=0.1, steps=6, aim="latency")(digits_model, x, y, ids))[0][busiest].sum() > before
    costs = (("layers.2", 0.0), ("layers.6", 0.0))
    made = Sponge(eps=0.1, steps=6, costs=costs)(digits_model, x, y, ids)
    plain = Sponge(eps=0.1, steps=6)(digits_model, x, y, ids)
    assert spikes(digits_model, made)[0][2].sum() > spikes(digits_model, plain)[0][2].sum()


def test_the_label_stays_where_it_is_to(digits_model, batch):
    x, y, ids = batch
    attack = Sponge(eps=0.4, steps=8)
    seen = spikes(digits_model, x)[1]
    assert (spikes(digits_model, attack(digits_model, x, y, ids))[1] != seen).any()
    kept = Sponge(eps=0.4, steps=8, keep_label=True)(digits_model, x, y, ids)
    assert torch.equal(spikes(digits_model, kept)[1], seen)
    assert spikes(digits_model, kept)[0].sum() > spikes(digits_model, x)[0].sum()


def test_neither_eps_0_nor_company_nor_order_changes_a_sample(digits_model, batch):
    x, y, ids = batch
    assert torch.equal(Sponge(eps=0.0)(digits_model, x, y, ids), x)
    attack = Sponge(eps=0.1, steps=3)
    whole = attack(digits_model, x, y, ids)
    assert torch.equal(attack(digits_model, x[4:7], y[4:7], ids[4:7]), whole[4:7])
    back = list(range(11, -1, -1))
    assert torch.equal(attack(digits_model, x[back], y[back], [ids[i] for i in back]), whole[back])
    assert json.loads(json.dumps(attack.describe()))["aim"] == "energy"


@pytest.mark.parametrize("settings", [{"aim": "boredom"}, {"targeted": True}, {"step_size": 0.0}])
def test_what_a_sponge_cannot_be(settings):
    with pytest.raises(ConfigError):
        Sponge(eps=0.1, **settings)


def test_it_reads_spikes(batch):
    other = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), domain="image", time_steps=1)
    with pytest.raises(ConfigError, match="reads the spikes"):
        Sponge(eps=0.1)(other, *batch)


@pytest.fixture(scope="module")
def run(digits_model, tmp_path_factory):
    """A function that runs a command on the digits network in this process: its exit code, its lines and its folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # typer's own, of click
        from typer.testing import CliRunner

        from trustsnn.cli.main import app
    folder = trustsnn.save(digits_model, tmp_path_factory.mktemp("integrity") / "model")

    def invoke(command, *options):
        out = tmp_path_factory.mktemp("out")
        arguments = [command, folder, "--data", "digits", "--out", out, "--quiet", *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trustsnn.cli.train.prepare", lambda threads: None)
            done = CliRunner().invoke(app, [*map(str, arguments)])
        return done.exit_code, done.output, out

    return invoke


def test_the_command_writes_tables_and_holds_its_gate(run, fits):
    options = ("--samples", 10, "--eps", 0.1, "--steps", 3)
    code, text, out = run("energy", *options, "--fail-over-energy-ratio", 1.0)
    assert code == 1
    record = json.loads((out / "energy.json").read_text())
    assert record["gate"]["holds"] is False
    assert record["attacks"][0]["energy"]["value"] > 1
    assert (
        record["attacks"][0]["energy"]["low"] < record["attacks"][0]["energy"]["value"] < record["attacks"][0]["energy"]["high"]
    )
    assert record["metrics"]["ClassificationAccuracy"] == record["intervals"]["ClassificationAccuracy"]["value"]
    page = (out / "energy.html").read_text()
    for part in (text, page):
        assert "4.6" in part
        assert "3-bit network" in part
        assert "Effective" in part or "MACs" in part
    again = run("energy", *options, "--fail-over-energy-ratio", 5.0)
    assert again[0] == 0
    assert (again[2] / "energy.json").read_text().replace("5.0", "1.0").replace("true", "false") == (
        out / "energy.json"
    ).read_text().replace("true", "false")
    assert run("energy", *options, "--fail-over-energy-ratio", 0)[0] != 0
    fits(out / "energy.html")


def test_the_integrity_command_writes_curves_and_holds_its_gate(run, fits):
    options = ("--samples", 20, "--known", 32, "--flips", 2, "--no-twin", "--seeds", 2, "--counts", "0,64", "--per-layer", 4)
    code, text, out = run("integrity", *options, "--faults", "neuron-dead,synapse-dead", "--fail-under-flips", 2)
    record = json.loads((out / "integrity.json").read_text())
    reached = record["bit_flips"]["model"]["to_chance"]
    assert code == (0 if reached is None or reached >= 2 else 1)
    assert [len(record["faults"]), len(record["by_layer"]), len(record["tampering"])] == [2, 3 + 4, 8]
    assert record["faults"][0]["bands"][0]["mean"]["value"] == record["clean"]["value"]
    assert {row["layer"] for row in record["by_layer"][:3]} == {"layers.2", "layers.6", "layers.11"}
    page = (out / "integrity.html").read_text()
    assert page.count("<svg") == 5
    assert "<script" not in page
    assert "flips" in text
    assert run("integrity", *options, "--fail-under-flips", 3)[0] != 0  # more than the search may try
    fits(out / "integrity.html")
