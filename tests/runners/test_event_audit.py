"""Audits of event models: budgets of events, the domain, resume, and what makes such an evaluation doubtful."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import trustsnn
from trustsnn.attacks.events import SDA, Insertion, Retiming
from trustsnn.attacks.events.base import event_size
from trustsnn.data import load
from trustsnn.errors import ConfigError
from trustsnn.neurons import STBP, SpikingNeuron, Surrogate
from trustsnn.runners import findings

DATA = "events:digits"
FEW = {"samples": 24, "eps": [4, 12], "quiet": True}
ATTACKS = [{"attack": "insertion"}, {"attack": "sda", "settings": {"iterations": 4}}]


def types(run):
    return {finding["type"] for finding in run.findings}


def test_an_audit_of_an_event_model_keeps_the_record(event_model, tmp_path):
    run = trustsnn.audit(event_model, DATA, out=tmp_path / "run", **FEW)
    data = load(DATA, "test", frames=4)
    assert (run.verdict, run.findings) == ("pass", [])
    assert run.clean_accuracy > run.robust_accuracy["events", 4.0].value > run.robust_accuracy["events", 12.0].value
    head = json.loads((run.folder / "run.json").read_text())
    assert (head["config"]["norms"], head["config"]["eps"]) == (["events", "moves"], [4.0, 12.0])
    threats = {(line["cell"]["threat"]["attack"], line["cell"]["threat"]["eps"]) for line in run.summary["cells"]}
    assert threats == {("none", 0.0)} | {(a, e) for a in ("insertion", "deletion", "spikefool", "sda") for e in (4.0, 12.0)}
    for line in run.summary["cells"]:
        threat, key = line["cell"]["threat"], line["key"]
        table = pq.read_table(run.folder / "cells" / f"{key}.parquet").to_pandas()
        assert (table["changes"] <= threat["eps"]).all()
        if threat["norm"]:
            assert threat["norm"] == "events"
            assert table["changes"].max() > 0 or threat["attack"] == "spikefool"  # which leaves alone what it cannot break
            with np.load(run.folder / "cells" / f"{key}.npz", allow_pickle=False) as arrays:
                assert arrays["clean"].shape == arrays["adversarial"].shape == (8, 2, 10, 10)
                rows = [data.ids.index(name) for name in arrays["sample"]]
                np.testing.assert_allclose(arrays["clean"] * arrays["unit"], data.batch(rows)[0].sum(1), atol=1e-5)
                assert 1 <= arrays["unit"] <= 4
                assert arrays["adversarial"].max() <= 1
                change = np.abs(arrays["adversarial"] - arrays["clean"]).sum((1, 2, 3)) * arrays["unit"]
                assert (change <= threat["eps"] + 1e-3).all()
    written, kept = pd.read_csv(run.folder / "samples.csv"), pq.read_table(run.folder / "samples.parquet").to_pandas()
    assert list(written.columns) == list(kept.columns)
    assert (written["changes"] == kept["changes"]).all()
    page = run.report.read_text()
    for text in ("12 changed events", "SpikeFool", "events inserted and deleted at a pixel", "number of moved events"):
        assert text in page
    assert "L∞" not in page


def test_the_worst_case_of_events_and_of_moves_is_apart(event_model, tmp_path):
    attacks = [*ATTACKS, {"attack": "retiming", "settings": {"iterations": 4}}]
    run = trustsnn.audit(event_model, DATA, out=tmp_path / "run", attacks=attacks, **FEW)
    assert set(run.robust_accuracy) == {("events", 4.0), ("events", 12.0), ("moves", 4.0), ("moves", 12.0)}
    table = pq.read_table(run.folder / "samples.parquet").to_pandas().set_index(["cell", "sample"])["correct"]
    for (norm, eps), figure in run.robust_accuracy.items():
        cells = [line for line in run.summary["cells"] if line["cell"]["threat"]["norm"] in (None, norm)]
        keys = [line["key"] for line in cells if line["cell"]["threat"]["eps"] <= eps]
        assert figure.value == table[keys].groupby("sample").all().mean()
    assert "12 moved events" in run.report.read_text()


def test_a_broken_event_audit_goes_on_and_no_batch_size_matters(event_model, tmp_path, files, monkeypatch):
    settings = {"attacks": [*ATTACKS, {"attack": "sda", "settings": {"iterations": 4}, "estimator": {"name": "assg"}}], **FEW}
    trustsnn.audit(event_model, DATA, out=tmp_path / "whole", **settings)
    trustsnn.audit(event_model, DATA, out=tmp_path / "parts", batch_size=5, **settings)
    real, calls = SDA._run, [0]

    def interrupted(self, *rest):
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(self, *rest)

    monkeypatch.setattr(SDA, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trustsnn.audit(event_model, DATA, out=tmp_path / "broken", **settings)
    trustsnn.audit(event_model, DATA, out=tmp_path / "broken", **settings)
    assert files(tmp_path / "broken") == files(tmp_path / "parts") == files(tmp_path / "whole")


def test_an_audit_of_events_runs_on_a_camera_that_draws(event_model, tmp_path):
    few = {**FEW, "samples": 24, "eps": [24], "twins": ["dvs-noisy", "loihi"], "chips": 2}
    attacks = [{"attack": "insertion", "settings": {"eot": 2}}, {"attack": "deletion"}]
    run = trustsnn.audit(event_model, DATA, out=tmp_path / "run", attacks=attacks, **few)
    cells = [line["cell"] for line in run.summary["cells"]]
    assert all(line["status"] == "ok" for line in run.summary["cells"])
    eot = {(c["threat"]["attack"], c["twin"] and (c["twin"]["line"], c["twin"]["maker"])): c["threat"].get("eot") for c in cells}
    assert eot["insertion", ("dvs-noisy", "chip")] == 2  # as its settings say
    assert eot["deletion", ("dvs-noisy", "chip")] == 5  # as the profile says
    assert eot["deletion", ("loihi", "chip")] == eot["deletion", ("dvs-noisy", "network")] == eot["deletion", None] == 1
    made = next(row for row in run.hardware if (row["maker"], row["threat"]["attack"]) == ("chip", "insertion"))
    assert made["maker_accuracy"]["successes"] < run.hardware[0]["chips"][-1]["successes"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": [{"attack": "pgd"}]}, "'pgd' is not for the domain 'events-binary'. For it: sda, spikefool"),
        ({"norms": ["linf"]}, "Unknown norm 'linf'.*Known: events, moves"),
        ({"norms": ["moves"]}, "No attack of this audit has the norm 'moves'"),
        ({"norms": ["events"], "attacks": [{"attack": "retiming"}]}, "'retiming' is for the norm moves, got the norms events"),
        ({"eps": ["2/255"]}, "whole numbers of events"),
        ({"attacks": [{"attack": "sda", "settings": {"budget": 3}}]}, "no setting budget"),
        ({"gates": ["robust_accuracy[linf,4] >= 0.1"]}, r"Expected one of: \[events,4\], \[events,12\]"),
    ],
)
def test_wrong_plans_for_events_are_refused(settings, message, event_model, tmp_path):
    with pytest.raises(ConfigError, match=message):
        trustsnn.audit(event_model, DATA, out=tmp_path / "run", **{**FEW, **settings})
    assert not (tmp_path / "run").exists()


def test_an_event_attack_on_images_is_refused(digits_model):
    with pytest.raises(ConfigError, match=r"'sda' is not for the domain 'image'\. For it: fgsm"):
        trustsnn.audit(digits_model, "digits", attacks=[{"attack": "sda"}], eps=[0.1], quiet=True)
    with pytest.raises(ConfigError, match="Unknown norm 'events'"):
        trustsnn.audit(digits_model, "digits", norms=["events"], quiet=True)


def test_the_size_of_changes_to_events():
    delta = torch.zeros(3, 3, 2, 2, 2)
    delta[0, 0, 0, 0, 0], delta[0, 2, 0, 0, 0] = -1, 1  # one event moved
    delta[1, 0, 0, 0, 0], delta[1, 0, 1, 0, 0] = -1, 1  # it changed its polarity, which is no move in time
    assert event_size(delta, "events").tolist() == [2, 2, 0]
    assert event_size(delta, "moves").tolist() == [1, float("inf"), 0]


def added(x, value):
    """The samples with `value` at their first place, the corner of the first frame, which is empty."""
    place = torch.zeros_like(x[0])
    place.view(-1)[0] = value
    return x + place


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        (SDA, "sda", lambda x: 1 - x),
        (SDA, "sda", lambda x: added(x, 0.5)),
        (SDA, "sda", lambda x: added(x, -1)),
        (SDA, "sda", lambda x: added(x, 2)),
        (Retiming, "retiming", lambda x: added(x, 1)),
    ],
    ids=["too many", "not whole", "negative", "above the most", "not in time"],
)
def test_an_attack_that_leaves_its_domain_is_named(kind, name, change, event_model, tmp_path, monkeypatch):
    def cheat(self, oracle, x, draws):
        return change(x), torch.zeros(len(x), dtype=torch.int64)

    monkeypatch.setattr(kind, "_run", cheat)
    run = trustsnn.audit(event_model, DATA, out=tmp_path / "run", **{**FEW, "eps": [2], "attacks": [{"attack": name}]})
    assert "domain-violated" in types(run)
    assert run.exit_code == 3


def test_a_sharp_surrogate_is_named(event_model, tmp_path):
    model = copy.deepcopy(event_model)
    for module in model.modules():
        if isinstance(module, SpikingNeuron):
            module.estimator = STBP(Surrogate("rectangular", 0.002))
    wide = {"attack": "insertion", "estimator": {"surrogate": "atan", "width": 0.5}}
    for name, attacks in (("with", [{"attack": "insertion"}, wide]), ("without", [{"attack": "insertion"}])):
        run = trustsnn.audit(model, DATA, out=tmp_path / name, **{**FEW, "eps": [40], "attacks": attacks})
        assert "gradient-masking" in types(run)
        assert run.exit_code == 3


def test_an_attack_without_gradients_that_beats_them_is_named(event_model, tmp_path, monkeypatch):
    def lame(self, oracle, x, draws):
        return x, torch.zeros(len(x), dtype=torch.int64)

    settings = {**FEW, "eps": [60], "attacks": [{"attack": "insertion"}, {"attack": "corner"}]}
    honest = trustsnn.audit(event_model, DATA, out=tmp_path / "honest", **settings)
    monkeypatch.setattr(Insertion, "_run", lame)
    run = trustsnn.audit(event_model, DATA, out=tmp_path / "run", **settings)
    assert (types(honest), types(run)) == (set(), {"black-box-beats-white-box"})
    (found,) = run.findings
    assert found["evidence"]["tried"] == round(24 * run.clean_accuracy)


def test_sda_without_a_budget_must_break_everything(event_model, tmp_path):
    settings = {**FEW, "eps": [2], "attacks": [{"attack": "sda", "settings": {"iterations": 1, "growth": 1}}]}
    run = trustsnn.audit(event_model, DATA, out=tmp_path / "run", **settings)
    assert types(run) == {"unbounded-attack-fails"}


def test_sda_is_held_against_itself_with_half_the_iterations():
    assert findings._more_steps(SDA(budget=9, iterations=10), SDA(budget=9, iterations=20)) == (10, 20)
    assert findings._more_steps(SDA(budget=9, iterations=10), SDA(budget=8, iterations=20)) is None
