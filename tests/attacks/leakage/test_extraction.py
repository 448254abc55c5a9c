"""Extraction: what a copy learns from answers alone, and what it is judged by."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from trustsnn.attacks.leakage.extraction import Extraction, answered, likeness, misled, noise_queries
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.runners.extraction import Plan, extraction
from trustsnn.statistics import proportion

FEW = Extraction(steps=60, batch_size=32, learning_rate=5e-3)


def network(name="mlp", **arguments):
    return build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, **{"steps": 2, "seed": 3, **arguments})


@pytest.fixture
def held_out(digits_test):
    return digits_test.take(120)


@pytest.mark.parametrize("answers", ["labels", "soft"])
def test_a_copy_nears_the_model_with_the_queries_and_reads_no_label(answers, digits_model, digits_train, held_out):
    before = model_hash(digits_model)
    attack = replace(FEW, answers=answers)
    copies = [attack(digits_model, network(), digits_train, budget) for budget in (40, 600)]
    few, many = (likeness(digits_model, copy, held_out) for copy in copies)
    assert many.agreement["low"] > few.agreement["high"] > 0.2
    assert many.accuracy["count"] == 120
    assert model_hash(digits_model) == before
    unlabelled = replace(digits_train, labels=np.zeros_like(digits_train.labels))
    assert model_hash(attack(digits_model, network(), unlabelled, 40)) == model_hash(copies[0])


@pytest.mark.parametrize(("answers", "same"), [("labels", True), ("soft", False)])
def test_labels_hide_how_sure_the_model_is(answers, same, digits_model, digits_train):
    surer = copy.deepcopy(digits_model)
    last = surer.layers[-1]
    with torch.no_grad():
        last.weight.mul_(2)
        last.bias.mul_(2)
    attack = replace(FEW, answers=answers, steps=2)
    copies = [attack(model, network(), digits_train, 40) for model in (digits_model, surer)]
    assert (model_hash(copies[0]) == model_hash(copies[1])) == same


def test_queries_may_have_classes_of_their_own(digits_model, digits_train):
    other = replace(digits_train, labels=digits_train.labels + 5, classes=tuple(map(str, range(15))))
    attack = replace(FEW, steps=2)
    assert model_hash(attack(digits_model, network(), other, 40)) == model_hash(attack(digits_model, network(), digits_train, 40))


def test_answers_depend_on_the_sample_alone(poisson_model, held_out):
    shares = answered(poisson_model, held_out)
    assert torch.allclose(shares.sum(1), torch.ones(120), atol=1e-5)
    rows = [5, 77, 3]
    assert torch.equal(answered(poisson_model, held_out.select(rows)), shares[rows])


def test_noise_queries_are_drawn_by_seed_and_span_the_range(digits_model):
    some, more, other = (noise_queries(digits_model.spec, count, seed) for count, seed in ((5, 0), (9, 0), (5, 1)))
    x = some.batch(range(5))[0]
    assert x.shape == (5, 1, 8, 8)
    assert np.array_equal(more.batch(range(5))[0], x)
    assert not np.array_equal(other.batch(range(5))[0], x)
    assert np.all(x.min((1, 2, 3)) == 0)
    assert np.all(x.max((1, 2, 3)) == 1)
    assert np.abs(np.diff(x, axis=3)).mean() < 0.2  # neighbours are alike


def test_attacks_transfer_from_a_copy_less_than_from_the_model_and_more_than_noise(digits_model, digits_train, held_out):
    copied = replace(FEW, steps=200)(digits_model, network("conv", steps=4), digits_train, 800)
    sources = (copied, digits_model, copy.deepcopy(digits_model), network("conv").eval(), None)
    from_copy, itself, same, fresh, signs = (misled(digits_model, source, held_out, 0.15, 10) for source in sources)
    assert itself["low"] > from_copy["value"] > signs["high"]
    assert same["low"] > from_copy["value"] > fresh["value"]
    assert misled(digits_model, copied, held_out, 0.0, 1)["successes"] == 0


def test_transfer_is_over_what_the_model_has_right(digits_model, held_out):
    labels = held_out.labels.copy()
    labels[:50] = (labels[:50] + 1) % 10
    data = replace(held_out, labels=labels)
    right = int((answered(digits_model, data).argmax(1).numpy() == labels).sum())
    assert misled(digits_model, None, data, 0.0, 1) == proportion(0, right)
    assert right < 75


def test_a_model_that_has_nothing_right_has_no_transfer(held_out):
    model = network().eval()
    wrong = answered(model, held_out).argmax(1).numpy() != held_out.labels
    with pytest.raises(ConfigError, match="none right"):
        misled(model, None, held_out.select(np.flatnonzero(wrong)), 0.1, 1)


def test_a_run_keeps_the_curve(digits_model, digits_train, held_out, tmp_path, joined, fits):
    plan = Plan(attack=replace(FEW, steps=20), budgets=(200, 50), copy={"name": "mlp", "channels": 0.25, "steps": 2}, steps=3)
    done = extraction(digits_model, digits_train, held_out, tmp_path, plan)
    record = json.loads((tmp_path / "extraction.json").read_text())
    assert record == done.record
    assert [row["queries"] for row in record["copies"]] == [50, 200]
    assert all(row["agreement"]["count"] == 120 for row in record["copies"])
    assert record["accuracy"]["value"] > 0.9
    page = (tmp_path / "extraction.html").read_text()
    for figure in ("agreement", "accuracy", "transfer"):
        assert f"{100 * record['copies'][1][figure]['value']:.1f} (" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert joined(tmp_path)[0].keys() == {"extract"}
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    extraction(digits_model, digits_train, held_out, tmp_path, plan)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents
    fits(tmp_path / "extraction.html")


def test_a_run_without_transfer(digits_model, digits_train, held_out, tmp_path):
    plan = Plan(attack=replace(FEW, steps=2), budgets=(40,), copy={"name": "mlp", "channels": 0.1}, eps=0.0)
    record = extraction(digits_model, digits_train, held_out, tmp_path, plan).record
    assert record["white_box"] is record["random_signs"] is record["copies"][0]["transfer"] is record["eps"] is None
    assert record["copy"]["steps"] == digits_model.spec.steps


def test_mistakes_have_one_message(digits_model, digits_train, held_out, tmp_path):
    for settings, told in (({"answers": "x"}, "answers"), ({"steps": 0}, "steps"), ({"learning_rate": 0.0}, "learning_rate")):
        with pytest.raises(ConfigError, match=told):
            Extraction(**settings)
    for settings, told in (
        ({"budgets": ()}, "at least one"),
        ({"budgets": (0,)}, "at least 1 query"),
        ({"eps": -1.0}, "eps of at least 0"),
    ):
        with pytest.raises(ConfigError, match=told):
            Plan(**settings)
    with pytest.raises(ConfigError, match=r"1 to 120 queries"):
        FEW(digits_model, network(), held_out, 121)
    with pytest.raises(ConfigError, match="share 120 samples"):
        extraction(digits_model, held_out, held_out, tmp_path, Plan(budgets=(10,)))
    with pytest.raises(ConfigError, match="at least 5000 queries"):
        extraction(digits_model, digits_train, held_out, tmp_path, Plan(budgets=(5000,)))
    wide = noise_queries(build("mlp", input_shape=(1, 9, 9), classes=10).spec, 10)
    with pytest.raises(ConfigError, match=r"queries noise .* do not fit the model"):
        extraction(digits_model, wide, held_out, tmp_path, Plan(budgets=(10,)))
    with pytest.raises(ConfigError, match="for a model of images"):
        noise_queries(build("mlp", input_shape=(2, 2, 4, 4), classes=3, steps=2, domain="events-binary").spec, 4)
    assert not list(tmp_path.iterdir())
