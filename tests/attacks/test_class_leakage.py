"""Class leakage: a trained network shows its classes, an untrained one does not, and the score says which is which."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from trustsnn.attacks.estimators import estimator
from trustsnn.attacks.leakage import BrainLeaksV1, BrainLeaksV2, ClassRepresentation, Judge
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.rng import Draws
from trustsnn.runners.leakage import class_leakage
from trustsnn.training import TrainConfig, train

CLASSES = [each for each in range(10) for _ in range(4)]
FEW = ClassRepresentation(iterations=25)


def network(name="conv", **arguments):
    return build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, **arguments)


@pytest.fixture(scope="module")
def classifier(digits_train):
    model = network("mlp", neuron="relu", seed=7)
    train(model, digits_train, TrainConfig(epochs=3, batch_size=32))
    return model


@pytest.fixture(scope="module")
def judge(classifier, digits_test):
    return Judge(classifier, digits_test)


@pytest.mark.parametrize("through", ["ann", "snn"])
def test_a_trained_network_shows_its_classes_and_a_fresh_one_does_not(digits_model, judge, through):
    attack = replace(FEW, through=through)
    trained, fresh = (judge(attack(model, CLASSES), CLASSES) for model in (digits_model, network(seed=5).eval()))
    assert trained.top1["low"] > 0.2
    assert trained.above_chance < 0.001
    assert fresh.above_chance > 0.05
    assert trained.distance["high"] < fresh.distance["low"]
    assert trained.confidence["value"] > fresh.confidence["value"] + 0.2
    assert trained.top3["successes"] >= trained.top1["successes"]


def test_real_images_have_distance_0_and_those_of_other_classes_1(judge, digits_test):
    x, y = (torch.from_numpy(a.copy()) for a in digits_test.batch(range(len(digits_test))))
    real, wrong = judge(x, y), judge(x, (y + 1) % 10)
    assert real.top1 == judge.accuracy
    assert real.distance["low"] - 0.05 < 0 < real.distance["high"] + 0.05
    assert wrong.distance["value"] == pytest.approx(1, abs=0.15)
    assert wrong.above_chance > 0.9
    assert real.confidence["count"] == real.distance["count"] == len(digits_test)


def test_chance_takes_the_images_of_a_class_together(judge, digits_test):
    """Ten copies of one image of two classes: two hits of ten classes, however many images there are."""
    x, y = (torch.from_numpy(a.copy()) for a in digits_test.batch(range(len(digits_test))))
    rows = [int((y == each).nonzero()[0]) for each in range(10)]
    shown = [rows[0], rows[1], *[rows[each % 8 + 2] for each in range(1, 9)]]  # eight classes show their neighbour
    found = judge(x[shown].repeat_interleave(10, 0), [each for each in range(10) for _ in range(10)])
    assert found.top1["successes"] == 20
    assert found.top1["low"] > 0.1
    assert found.above_chance == pytest.approx(0.264, abs=0.02)  # at least two fixed points of a permutation of ten


@pytest.mark.parametrize("through", ["ann", "snn"])
def test_the_ascent_raises_the_logit_by_the_image_alone(poisson_model, through):
    attack, before = replace(FEW, through=through, iterations=40, eot=2), model_hash(poisson_model)
    images = attack(poisson_model, [3, 3, 8])
    assert images.shape == (3, 1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1
    assert not torch.equal(images[0], images[1])
    assert torch.equal(attack(poisson_model, [8, 3])[0], images[2])
    assert torch.equal(attack(poisson_model, [8, 3])[1], images[0])
    assert model_hash(poisson_model) == before
    start = Draws(0, attack.name, ("3-0", "3-1", "8-0")).child("start").uniform((1, 8, 8))
    draws = Draws(0, "test", ("a", "b", "c"))
    with frozen(poisson_model):
        raised = predict(poisson_model, images, draws) - predict(poisson_model, start, draws)
    assert (raised[[0, 1, 2], [3, 3, 8]] > 0).all()


def test_the_routes_are_the_twin_and_the_spikes_by_an_estimator(digits_model):
    attack = replace(FEW, through="snn", iterations=3)
    wide = replace(attack, estimator=estimator("stbp", surrogate="atan", width=2.0))
    assert not torch.equal(attack(digits_model, [1]), wide(digits_model, [1]))
    twin = replace(attack, through="ann")(digits_model, [1])
    assert not torch.equal(twin, attack(digits_model, [1]))
    assert torch.equal(twin, attack(ann_twin(digits_model), [1]))
    assert wide.describe()["estimator"]["name"] == "stbp"
    blind = replace(attack, estimator=estimator("stbp", surrogate="rectangular", width=1e-6))
    found = blind.run(digits_model, [1, 2])
    assert found.zero_gradient.all()
    assert not attack.run(digits_model, [1, 2]).zero_gradient.any()


def test_a_blur_leaves_less_noise(digits_model):
    rough, smooth = (replace(FEW, blur_every=every, sigma=1.0, iterations=21)(digits_model, CLASSES) for every in (0, 5))
    assert smooth.diff(dim=3).abs().mean() < 0.8 * rough.diff(dim=3).abs().mean()


def test_a_run_keeps_figures_and_pictures(digits_model, classifier, digits_test, tmp_path, joined, fits):
    twin = network("mlp", neuron="relu", seed=1).eval()
    attacks = [replace(FEW, through=through, iterations=3) for through in ("ann", "snn")]
    record = class_leakage({"a<b": digits_model, "fresh": twin}, classifier, digits_test, tmp_path, attacks, images=2)
    assert json.loads((tmp_path / "leakage.json").read_text()) == record
    assert [[a["settings"]["through"] for a in m["attacks"]] for m in record["models"]] == [["ann", "snn"], ["ann"]]
    assert all(a["top1"]["count"] == 20 for m in record["models"] for a in m["attacks"])
    with np.load(tmp_path / "images.npz", allow_pickle=False) as kept:
        assert sorted(kept.files) == ["0-0", "0-1", "1-0"]
        assert np.array_equal(kept["0-1"], attacks[1](digits_model, record["models"][0]["attacks"][1]["classes"]).numpy())
    page = (tmp_path / "leakage.html").read_text()
    assert page.count("<img ") == 30
    assert "a&lt;b" in page
    assert "http" not in page.replace("http-equiv", "")
    outcomes, report = joined(tmp_path)
    assert list(outcomes) == ["class"]
    assert report.count("<img ") == 20  # of the strongest attack on each
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    class_leakage({"a<b": digits_model, "fresh": twin}, classifier, digits_test, tmp_path, attacks, images=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    fits(tmp_path / "leakage.html")


def test_mistakes_have_one_message(digits_model, poisson_model, classifier, judge, digits_test, tmp_path):
    for wrong in ({"through": "x"}, {"iterations": 0}, {"step": 0.0}, {"sigma": float("nan")}, {"eot": 0}):
        with pytest.raises(ConfigError, match="class representation"):
            ClassRepresentation(**wrong)
    with pytest.raises(ConfigError, match="leave the estimator out"):
        ClassRepresentation(through="ann", estimator=estimator("stbp"))
    for classes in ([], [10], [-1]):
        with pytest.raises(ConfigError, match=r"classes in 0\.\.9"):
            FEW(digits_model, classes)
    events = build("mlp", input_shape=(2, 2, 4, 4), classes=3, steps=2, domain="events-binary")
    with pytest.raises(ConfigError, match="model of images"):
        FEW(events, [0])
    with pytest.raises(ConfigError, match="without random draws as the judge"):
        Judge(poisson_model, digits_test)
    with pytest.raises(ConfigError, match="in both halves"):
        Judge(classifier, digits_test.take(8))
    with pytest.raises(ConfigError, match="does not fit the judge"):
        Judge(build("mlp", input_shape=(1, 8, 8), classes=9, neuron="relu"), digits_test)
    with pytest.raises(ConfigError, match="one class an image"):
        judge(torch.zeros(2, 1, 8, 8), [1])
    with pytest.raises(ConfigError, match="another architecture or seed than it"):
        class_leakage({"it": classifier}, classifier, digits_test, tmp_path)
    with pytest.raises(ConfigError, match="at least 1 image a class"):
        class_leakage({"it": digits_model}, classifier, digits_test, tmp_path, images=0)


@pytest.mark.parametrize("attack", [BrainLeaksV1(), BrainLeaksV2(iterations=20)])
def test_brainleaks_climbs_a_class_by_spike_trains(poisson_model, attack):
    """What comes of it, given as rates to the network, has more of its class than where it began."""
    found = attack.run(poisson_model, CLASSES)
    assert found.images.shape == (40, 1, 8, 8)
    assert 0 <= float(found.images.min()) < float(found.images.max()) <= 1
    assert not found.zero_gradient.all()
    wanted = torch.tensor(CLASSES)
    draws = Draws(0, "check", tuple(map(str, range(40))))
    with frozen(poisson_model):
        start = torch.zeros(40, 1, 8, 8) if attack.route == "trains" else draws.uniform((1, 8, 8))
        before, after = (
            torch.softmax(predict(poisson_model, x, draws), 1).gather(1, wanted[:, None]) for x in (start, found.images)
        )
    assert float(after.mean()) > float(before.mean()) + 0.2
    assert torch.equal(attack(poisson_model, CLASSES[4:8]), found.images[4:8])  # a class does not depend on the others
    assert not torch.equal(replace(attack, seed=1)(poisson_model, CLASSES), found.images)


def test_brainleaks_v1_equals_its_written_out_reference():
    """Two iterations on a network of one linear layer, whose gradient is known: softmax' of the mean logits over time."""
    model = build("mlp", input_shape=(1, 2, 2), classes=3, channels=0.02, steps=2, threshold=0.1, leak=1.0, norm="none").eval()
    images = BrainLeaksV1(iterations=2)(model, [1])
    spied = BrainLeaksV1()._attacked(model)
    x = torch.zeros(1, 2, 1, 2, 2)
    draws = Draws(0, "brainleaks-v1", ("1-0",))
    with frozen(model):
        for iteration in range(2):
            leaf = x.clone().requires_grad_()
            torch.log_softmax(spied(leaf), 1)[0, 1].backward()
            size = leaf.grad.abs()
            chance = (size - size.min()) / (size.max() - size.min()).clamp_min(1e-30)
            x = (x + (draws.child("coin", iteration).uniform((2, 1, 2, 2)) < chance) * leaf.grad.sign()).clamp(0, 1)
    assert torch.equal(images, x.mean(1))


def test_brainleaks_names_what_it_cannot_do(poisson_model):
    for call in (lambda: BrainLeaksV1(iterations=0), lambda: BrainLeaksV2(population=0), lambda: BrainLeaksV2(step=0.0)):
        with pytest.raises(ConfigError, match="Expected"):
            call()
    with pytest.raises(ConfigError, match="trustsnn's layers"):
        BrainLeaksV1()(ann_twin(poisson_model), [0])
