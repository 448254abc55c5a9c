"""Natural corruptions and out-of-distribution detection within an audit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import trustsnn
from trustsnn.attacks.corruptions import FAMILIES, evaluate_corruptions, mean_corruption_error
from trustsnn.attacks.ood import evaluate_ood, shuffled, signals
from trustsnn.data import load
from trustsnn.errors import ConfigError, DataError
from trustsnn.rng import Draws
from trustsnn.runners.config import make_config
from trustsnn.runners.shift import _noise, halves

SHIFT = {"corruptions": ["fog", "pixelate"], "severities": [1, 4], "samples": 40, "attacks": [], "quiet": True}


def test_an_audit_measures_what_the_function_measures(digits_model, digits_test, tmp_path):
    run = trustsnn.audit(digits_model, digits_test, out=tmp_path / "run", **SHIFT)
    data = digits_test.take(40, 0)
    x, y = map(torch.from_numpy, data.batch(range(40)))
    rows = evaluate_corruptions(digits_model, x, y, data.ids, [1, 4], ["fog", "pixelate"])
    expected = mean_corruption_error(rows)
    found = run.natural_shift["mean_corruption_error"]
    assert [(row["corruption"], row["severity"]) for row in run.natural_shift["corruptions"]] == [
        (row.corruption, row.severity) for row in rows
    ]
    for row, mine in zip(rows, run.natural_shift["corruptions"], strict=True):
        assert {name: mine[name] for name in row.accuracy} == row.accuracy
    assert (found["low"], found["high"], found["count"]) == (expected.low, expected.high, 40)
    assert found["value"] == pytest.approx(expected.value)
    assert {name: each["value"] for name, each in found["errors"].items()} == pytest.approx(expected.errors)
    assert 0 < found["value"] < 1
    assert (run.verdict, run.robust_accuracy) == ("pass", {})


def test_shift_is_apart_from_attacks_and_gates_hold_it(digits_model, tmp_path):
    attacked = {**SHIFT, "attacks": [{"attack": "fgsm"}], "eps": [0.1]}
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "a", gates=["mean_corruption_error <= 0.001"], **attacked)
    bare = trustsnn.audit(digits_model, "digits", out=tmp_path / "b", **{**attacked, "corruptions": []})
    assert run.robust_accuracy == bare.robust_accuracy
    assert (run.verdict, run.exit_code, bare.natural_shift) == ("fail", 1, None)


def test_event_models_have_the_corruptions_of_events(event_model, tmp_path):
    settings = {**SHIFT, "corruptions": "all", "severities": [5], "ood": ["noise", "shuffled"], "samples": 20}
    run = trustsnn.audit(event_model, "events:digits", out=tmp_path / "run", **settings)
    assert tuple(row["corruption"] for row in run.natural_shift["corruptions"]) == FAMILIES["events"]
    assert run.verdict == "pass"
    assert all(each["scores"]["energy"]["outside"] == 10 for each in run.ood)


@pytest.mark.parametrize("counts", [False, True])
def test_noise_of_events_is_whole_and_fills_its_range(counts):
    data = load("events:digits", "test", frames=4, counts=counts).take(8)
    most = data.max_count or 1
    made = _noise(data)(torch.from_numpy(data.batch(range(8))[0]), Draws(0, "ood", data.ids))
    assert sorted(made.unique().tolist()) == list(range(most + 1))
    assert float(made.mean()) == pytest.approx(most / 2, rel=0.05)


def test_detection_is_of_one_half_by_the_other(digits_model, digits_test, tmp_path):
    run = trustsnn.audit(digits_model, digits_test, out=tmp_path / "run", samples=41, attacks=[], ood=["shuffled"], quiet=True)
    data = digits_test.take(41, 0)
    reference, inside = halves(data)
    assert sorted([*reference.ids, *inside.ids]) == sorted(data.ids)
    assert (len(reference), len(inside)) == (20, 21)
    x, own = (torch.from_numpy(part.batch(range(len(part)))[0]) for part in (reference, inside))
    outside = shuffled(x, Draws(0, "ood", reference.ids))
    seen = [signals(digits_model, *each) for each in ((own, inside.ids), (outside, reference.ids), (x, reference.ids))]
    expected = evaluate_ood(*seen)
    (found,) = run.ood
    assert found["scores"].keys() == expected.keys() >= {"energy", "spike-rate/total"}
    for name, score in expected.items():
        assert (found["scores"][name]["auroc"], found["scores"][name]["low"]) == (score.auroc, score.low)


@pytest.fixture
def other(tmp_path):
    """A data set of 60 random images of the shape of digits."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "other.npz", x=rng.random((60, 1, 8, 8), dtype=np.float32), y=rng.integers(0, 3, 60))
    return str(tmp_path / "other.npz")


def test_no_order_batch_or_break_changes_a_byte(digits_model, digits_test, other, tmp_path, files, monkeypatch):
    settings = {**SHIFT, "ood": [other, "noise"]}
    whole = trustsnn.audit(digits_model, digits_test, out=tmp_path / "whole", **settings)
    assert [(each["source"], each["scores"]["energy"]["outside"]) for each in whole.ood] == [(other, 20), ("noise", 20)]
    order = np.random.default_rng(0).permutation(len(digits_test))
    trustsnn.audit(digits_model, digits_test.select(order), out=tmp_path / "parts", batch_size=7, **settings)
    with monkeypatch.context() as patch:
        patch.setattr("trustsnn.runners.shift.uniform_noise", lambda *_: 1 / 0)
        broken = trustsnn.audit(digits_model, digits_test, out=tmp_path / "broken", **settings)
    assert (broken.exit_code, broken.ood[1]["status"], broken.ood[1]["scores"]) == (3, "error", {})
    kept = (tmp_path / "broken" / "timings.jsonl").read_bytes().count(b"\n")
    trustsnn.audit(digits_model, digits_test, out=tmp_path / "broken", **settings)
    assert (tmp_path / "broken" / "timings.jsonl").read_bytes().count(b"\n") == kept + 1
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    mended = files(tmp_path / "broken")
    assert mended.pop("cells.jsonl") != files(tmp_path / "whole")["cells.jsonl"]  # the error stays on record
    assert mended.items() < files(tmp_path / "whole").items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruptions": ["fogg"]}, "Did you mean 'fog'"),
        ({"corruptions": ["event-drop"]}, "not for the domain 'image'"),
        ({"corruptions": ["saturate"]}, "colour images"),
        ({"severities": [6]}, "severities among 1, 2, 3, 4, 5"),
        ({"severities": []}, "severities among"),
        ({"ood": ["digits"]}, "another data set of samples"),
        ({"ood": ["events:digits"]}, r"got 'events:digits' with \[4, 2, 10, 10\]"),
        ({"ood": ["noise"], "samples": 3}, "at least 4 samples, got 3"),
        ({"corruptions": [], "gates": ["mean_corruption_error <= 0.3"]}, "--corruptions all"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(settings, message, digits_model, tmp_path):
    with pytest.raises(ConfigError, match=message):
        trustsnn.audit(digits_model, "digits", out=tmp_path / "run", **{**SHIFT, **settings})
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_no_data_set_is_named(digits_model):
    with pytest.raises(DataError, match="'noises'"):
        trustsnn.audit(digits_model, "digits", ood=["noises"], **SHIFT)


def test_all_stands_for_the_corruptions_of_the_domain():
    config = make_config({"corruptions": ["fog", "all"]})
    assert config.resolved_corruptions("image")[:2] == ("fog", "gaussian-noise")
    assert len(config.resolved_corruptions("image")) == 15
    assert make_config({}).resolved_corruptions("image") == ()
