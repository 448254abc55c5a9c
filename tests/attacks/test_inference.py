"""Attribute and property inference: what is planted is found, what is not there is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trustsnn.attacks.leakage.attribute import Attribute, AttributeInference
from trustsnn.attacks.leakage.property import property_scores, share_of
from trustsnn.data import load
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.reports.inference import leaking, lines
from trustsnn.runners.attributes import PropertyPlan, attributes, properties
from trustsnn.runners.shadows import Recipe
from trustsnn.training import TrainConfig


@pytest.fixture
def records():
    draws = np.random.default_rng(0)
    return draws.random((300, 4)), draws.integers(0, 2, 300)


def share(guess, truth):
    return float((guess == truth).mean())


def test_a_model_that_knows_the_secret_gives_it_away_and_one_that_does_not_keeps_it(records):
    x, y = records
    attribute = Attribute.halved(x, 2)
    secrets = {tuple(np.delete(row, 2)): value for row, value in zip(x, attribute.of(x), strict=True)}

    def leaking(asked, labels):
        """Surer of a record with its own secret than with the other."""
        own = np.array([secrets[tuple(np.delete(row, 2))] for row in asked])
        return np.where(attribute.of(asked) == own, 0.9, 0.6)

    truth = attribute.of(x[150:])
    told = AttributeInference(attribute, leaking, x[:150], y[:150]).guesses(x[150:], y[150:])
    assert share(told["confidence"], truth) == 1
    assert share(told["both"], truth) > 0.95
    assert share(told["imputation"], truth) < 0.65  # the features are independent
    quiet = AttributeInference(attribute, lambda asked, labels: np.full(len(asked), 0.8), x[:150], y[:150])
    kept = quiet.guesses(x[150:], y[150:])
    assert share(kept["confidence"], truth) < 0.65
    assert np.array_equal(kept["both"], kept["imputation"])


def test_imputation_reads_the_rest_of_the_record_alone(records):
    x, y = records
    x[:, 2] = x[:, 0]  # the secret is another feature
    attribute = Attribute.halved(x, 2)
    inference = AttributeInference(attribute, lambda asked, labels: np.full(len(asked), 0.5), x[:150], y[:150])
    assert share(inference.guesses(x[150:], y[150:])["imputation"], attribute.of(x[150:])) > 0.9
    changed = x[150:].copy()
    changed[:, 2] = 1 - changed[:, 2]
    for name, guess in inference.guesses(changed, y[150:]).items():
        assert np.array_equal(guess, inference.guesses(x[150:], y[150:])[name])  # the secret itself is never read


def test_wrong_features_are_one_error(records):
    x, _ = records
    with pytest.raises(ConfigError, match=r"feature in 0\.\.3"):
        Attribute.halved(x, 4)
    x[:, 1] = 0.5
    with pytest.raises(ConfigError, match="both sides"):
        Attribute.halved(x, 1)


def test_a_planted_property_is_told_and_noise_is_not():
    draws = np.random.default_rng(1)
    has = np.arange(40) % 2 == 1
    shift = np.zeros(60)
    shift[:6] = 3
    known, asked = draws.normal(size=(2, 40, 60))
    assert share(property_scores(known + has[:, None] * shift, has, asked + has[:, None] * shift) > 0, has) > 0.9
    assert 0.2 < share(property_scores(known, has, asked) > 0, has) < 0.8
    with pytest.raises(ConfigError, match="with and without"):
        property_scores(known, np.ones(40, dtype=bool), asked)


def test_shares_are_those_asked_for():
    members = np.arange(100) < 30
    rows = share_of(members, 40, 0.25, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 40
    assert members[rows].sum() == 10
    with pytest.raises(ConfigError, match="Expected 40 samples with the property"):
        share_of(members, 40, 1.0, np.random.default_rng(0))


def test_attribute_run_on_a_table(tmp_path, joined):
    train, test = load("cancer", "train"), load("cancer", "test")
    assert (len(train), len(test), train.sample_shape) == (380, 189, (1, 1, 30))
    model = build("mlp", input_shape=(1, 1, 30), classes=2, channels=0.1).eval()
    done = attributes(model, train.take(60), test.select(range(60)), test.select(range(60, 189)), tmp_path, [0, 5])
    record = json.loads((tmp_path / "attributes.json").read_text())
    assert [row["feature"] for row in record["features"]] == [0, 5]
    assert record["features"][0]["members"]["prior"]["count"] == 60
    assert any("features" in line for line in lines(record))
    assert "McNemar" in done.report.read_text(encoding="utf-8")
    assert joined(tmp_path)[0] == {"attribute": "found" if leaking(record) else "nothing found"}


def test_property_run_tells_a_share_of_a_class(tmp_path, joined):
    train, test = load("cancer", "train"), load("cancer", "test")
    model = build("mlp", input_shape=(1, 1, 30), classes=2, channels=0.1, steps=2)
    recipe = Recipe(model.architecture, TrainConfig(epochs=4, batch_size=16, learning_rate=4e-3))
    plan = PropertyPlan(recipe=recipe, label=0, shares=(0.1, 0.6), samples=60, known=12, asked=8)
    done = properties(train, test.take(40), tmp_path, plan)
    assert done.record["right"]["count"] == 8
    assert done.record["auc"]["value"] > 0.8
    assert any("put aside" in line for line in lines(done.record))
    assert joined(tmp_path)[0].keys() == {"property"}
    with pytest.raises(ConfigError, match="class in 0"):
        properties(train, test.take(40), tmp_path, PropertyPlan(recipe=recipe, label=5))
    with pytest.raises(ConfigError, match="rising shares"):
        PropertyPlan(recipe=recipe, label=0, shares=(0.5, 0.5))
