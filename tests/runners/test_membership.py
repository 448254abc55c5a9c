"""Shadow models that are trained once, and membership runs: what leaks, what does not, gates, chips and bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trustsnn.data import from_arrays
from trustsnn.defenses.dp import PrivacyConfig
from trustsnn.errors import ConfigError
from trustsnn.hardware.choose import parse
from trustsnn.models import build
from trustsnn.reports.membership import lines
from trustsnn.reports.membership_compare import compared, read
from trustsnn.runners.membership import Plan, game, given, joined, noisy_labels, part
from trustsnn.runners.shadows import Recipe, coins, halves, train_all
from trustsnn.training import TrainConfig


@pytest.fixture(scope="module")
def recipe():
    arguments = {"input_shape": (1, 8, 8), "classes": 10, "channels": 0.5, "steps": 2}
    return Recipe(build("conv", **arguments).architecture, TrainConfig(epochs=12, batch_size=16, learning_rate=4e-3))


@pytest.fixture(scope="module")
def pool(digits_train):
    return noisy_labels(digits_train.take(240), 0.3, 0)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory, recipe, pool, digits_test):
    """A target that learnt a third of its labels by heart, and its run."""
    folder = tmp_path_factory.mktemp("membership")
    return folder, game(pool, digits_test.take(100), folder, Plan(recipe=recipe, shadows=8, most=0.02, copies=4))


def test_halves_give_every_sample_as_many_models_with_as_without_it(pool):
    inside = halves(pool.ids, 6, 0)
    assert (inside.sum(0) == 3).all()
    assert 80 < inside.sum(1).min() < inside.sum(1).max() < 160
    again = halves(pool.ids[::-1], 6, 0)
    assert np.array_equal(again[:, ::-1], inside)  # a sample's models do not depend on the order
    odd = halves(pool.ids, 7, 0).sum(0)
    assert set(odd.tolist()) == {3, 4}
    assert 90 < coins(pool.ids, 0).sum() < 150


def test_models_are_trained_once_and_alike_in_processes(tmp_path, recipe, pool):
    inside = halves(pool.ids, 2, 0)
    fast = Recipe(recipe.architecture, TrainConfig(epochs=1, batch_size=64))
    told = []
    first = train_all(fast, pool, inside, tmp_path / "one", told=told.append)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*") if path.is_file()}
    again = train_all(fast, pool, inside[:1], tmp_path / "one")
    assert again[0] == first[0]
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*") if path.is_file()}
    apart = train_all(fast, pool, inside, tmp_path / "two", workers=2)
    for one, two in zip(first, apart, strict=True):
        assert (one.folder / "model.safetensors").read_bytes() == (two.folder / "model.safetensors").read_bytes()
    assert len(told) == 2
    assert first[0].folder != first[1].folder


def test_a_training_stops_at_the_accuracy_asked_for(tmp_path, recipe, pool):
    inside = np.ones((1, len(pool)), dtype=bool)
    stopped = train_all(Recipe(recipe.architecture, recipe.config, stop_at=0.5), pool, inside, tmp_path)[0]
    assert stopped.epochs[-1]["train_accuracy"] >= 0.5
    assert 1 <= stopped.epochs[-1]["epoch"] < recipe.config.epochs
    with pytest.raises(ConfigError, match="stop at"):
        train_all(Recipe(recipe.architecture, recipe.config, stop_at=2.0), pool, inside, tmp_path)


def test_private_training_leaks_less(leaking, pool, digits_test, tmp_path):
    """The same width, group normalisation and eps 1: nothing is found, and the bound on eps stays below it."""
    _, done = leaking
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5, steps=2, norm="group")
    recipe = Recipe(
        model.architecture, TrainConfig(epochs=2, batch_size=32), privacy=PrivacyConfig(eps=1.0, delta=1e-4, seeded=True)
    )
    run = game(pool, digits_test.take(100), tmp_path, Plan(recipe=recipe, shadows=4, copies=1))
    lira = [next(row for row in each["attacks"] if row["name"] == "lira") for each in (done.record, run.record)]
    assert lira[1]["auc"]["high"] < lira[0]["auc"]["low"]
    assert run.record["eps"]["lower"] <= 1.0
    assert run.record["eps"]["lower"] < done.record["eps"]["lower"]
    with pytest.raises(ConfigError, match="not private"):
        Recipe(model.architecture, TrainConfig(), 0.9, PrivacyConfig(eps=1.0))


def test_an_overfitted_model_leaks_and_the_gate_sees_it(leaking, joined, fits):
    folder, done = leaking
    record = done.record
    found = {row["name"]: row for row in record["attacks"]}
    assert record["gap"]["train"]["value"] - record["gap"]["test"]["value"] > 0.15
    assert found["lira"]["tpr"][1]["value"] >= 0.1  # ten times the false positive rate
    assert found["lira"]["auc"]["low"] > 0.6
    assert found["rmia"]["auc"]["low"] > 0.6
    assert found["lira"]["tpr"][0]["status"] == "inconclusive"  # some 120 others cannot show 0.1 %
    assert {"lira-steps", "lira-spike-counts", "lira-first-spike", "lira-membrane", "label-only", "dropout"} <= set(found)
    assert done.exit_code == 1
    assert record["eps"]["lower"] > 0
    assert record["eps"]["guesses"] == 24
    assert len(record["exposed"]["samples"]) == 12
    page = (folder / "membership.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 12
    assert "inconclusive" in page
    assert json.loads((folder / "membership.json").read_text()) == record
    assert any("FAILS" in line for line in lines(record))
    outcomes, report = joined(folder)
    assert outcomes == {"membership": "found"}
    assert report.count("data:image/png") == 12
    assert "membership &lt;= 0.02" in report  # the run's own gate
    fits(folder / "membership.html")


def test_the_same_run_gives_the_same_bytes(leaking, recipe, pool, digits_test):
    folder, _ = leaking
    before = (folder / "membership.json").read_bytes(), (folder / "membership.html").read_bytes()
    game(pool, digits_test.take(100), folder, Plan(recipe=recipe, shadows=8, most=0.02, copies=4))
    assert before == ((folder / "membership.json").read_bytes(), (folder / "membership.html").read_bytes())


def test_a_model_that_never_saw_its_members_leaks_nothing(tmp_path, recipe, digits_train, digits_test):
    unseen = digits_train.take(240)
    target = train_all(recipe, unseen, coins(unseen.ids, 0)[None], tmp_path)[0]
    rest = [digits_test.select(range(start, start + 100)) for start in (0, 100, 200)]
    run = given(target.load(), *rest, tmp_path / "run", Plan(recipe=recipe, shadows=4, copies=4))
    assert run.record["eps"] is None
    outside = [row["name"] for row in run.record["attacks"] if not row["auc"]["low"] <= 0.5 <= row["auc"]["high"]]
    assert len(outside) <= 1  # of 13 intervals of 95 %


def test_chips_are_asked_with_the_same_shadow_models(leaking, recipe, pool, digits_test):
    folder, _ = leaking
    plan = Plan(recipe=recipe, shadows=8, copies=4, models=folder / "models")
    run = game(pool, digits_test.take(100), folder / "again", plan, chips=(parse("pcm@1year:compensate=false"), 2))
    chips = run.record["chips"]
    assert chips["count"] == 2
    lira = next(row for row in chips["attacks"] if row["name"] == "lira")
    on_network = next(row for row in run.record["attacks"] if row["name"] == "lira")
    assert lira["least"] < on_network["auc"]["value"]  # weights that drifted for a year remember less
    assert len(set(lira["areas"])) == 2
    assert any("chips of pcm" in line for line in lines(run.record))


def test_bad_input_is_one_error(tmp_path, recipe, digits_train, digits_test, pool):
    plan = Plan(recipe=recipe, shadows=0)
    target = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5, steps=2)
    with pytest.raises(ConfigError, match="apart, got 10 samples in both"):
        joined(digits_test.take(50), digits_test.take(10))
    with pytest.raises(ConfigError, match="population apart"):
        given(target, digits_train.take(20), digits_test.take(20), digits_test.take(20), tmp_path, plan)
    with pytest.raises(ConfigError, match="Expected 5000 samples"):
        part(digits_test, 5000, 0, "population")
    fast = Recipe(recipe.architecture, TrainConfig(epochs=1))
    with pytest.raises(ConfigError, match="at least 2 shadow models"):
        game(pool, digits_test.take(20), tmp_path, Plan(recipe=fast, shadows=2, copies=1))
    with pytest.raises(ConfigError, match="gate"):
        Plan(recipe=recipe, most=0.0)
    with pytest.raises(ConfigError, match="share of wrong labels"):
        noisy_labels(pool, 1.0, 0)


def test_without_shadow_models_and_few_samples_the_gate_is_inconclusive(tmp_path, recipe, digits_train, digits_test):
    target = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5, steps=2)
    plan = Plan(recipe=recipe, shadows=0, copies=1, most=0.5)
    run = given(target, digits_train.take(50), digits_test.select(range(50)), digits_test.select(range(50, 80)), tmp_path, plan)
    assert {row["name"] for row in run.record["attacks"]} == {"loss", "attack-p", "dropout", "label-only"}
    assert run.exit_code == 3


def test_comparison_refuses_unmatched_training_accuracy(leaking):
    folder, done = leaking
    one, other = read(folder), json.loads(json.dumps(done.record))
    assert any("LiRA" in line for line in compared(one, other, 0.01))
    other["gap"]["train"]["value"] -= 0.05
    with pytest.raises(ConfigError, match="like training accuracy"):
        compared(one, other, 0.01)
    assert "NOT matched" in compared(one, other, 0.01, unmatched=True)[0]
    with pytest.raises(ConfigError, match=r"membership.json"):
        read(folder / "nowhere")


def test_labels_are_drawn_anew_for_the_share_asked_for(digits_train):
    noisy = noisy_labels(digits_train, 0.1, 0)
    share = float((noisy.labels != digits_train.labels).mean())
    assert 0.07 < share < 0.13
    assert noisy.sha256 != digits_train.sha256
    assert np.array_equal(noisy_labels(digits_train.select(range(50)), 0.1, 0).labels, noisy.labels[:50])


def test_an_ann_has_no_features_of_spikes(tmp_path, digits_test):
    x, y = digits_test.batch(range(120))
    data = from_arrays(x, y, classes=10)
    ann = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5, steps=1, neuron="relu")
    plan = Plan(recipe=Recipe(ann.architecture, TrainConfig(epochs=1)), shadows=4, copies=1)
    run = game(data.select(range(100)), data.select(range(100, 120)), tmp_path, plan)
    names = {row["name"] for row in run.record["attacks"]}
    assert "lira-membrane" in names
    assert not names & {"lira-spike-counts", "lira-first-spike", "lira-steps"}


def test_command_trains_attacks_and_says_so(cli, tmp_path):
    training = [
        "--samples",
        120,
        "--population",
        40,
        "--shadows",
        4,
        "--epochs",
        1,
        "--channels",
        0.25,
        "--steps",
        2,
        "--workers",
        0,
    ]
    done = cli("leakage", "membership", "--data", "digits", "--out", "run", *training, "--fail-over", 0.9)
    assert done.exit_code in (0, 3), done.output
    assert "Attack-R" in done.output
    assert (tmp_path / "run" / "membership.html").exists()
    compared_with_itself = cli("leakage", "compare", "run", "run")
    assert compared_with_itself.exit_code == 0
    assert "training accuracy" in compared_with_itself.output
