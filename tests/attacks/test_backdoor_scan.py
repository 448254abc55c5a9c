"""The scan for backdoors: its detectors, its verdict, and thresholds by reference models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import gamma
from torch import nn

from trustsnn.attacks.integrity import Scan, poisoned, success, trigger
from trustsnn.attacks.integrity.evidence import Evidence, outliers
from trustsnn.attacks.integrity.inversion import Inversion
from trustsnn.attacks.integrity.margin import Margin, p_values
from trustsnn.attacks.integrity.scan import judged, verdict_of
from trustsnn.attacks.integrity.sweep import Sweep, shares
from trustsnn.attacks.integrity.tampering import scaled, tamperable
from trustsnn.checkpoint import model_hash
from trustsnn.data.event_frames import events_of
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.models.spec import ModelSpec
from trustsnn.statistics import proportion
from trustsnn.training import TrainConfig, accuracy, train

TARGET = 6
RIGHT = proportion(49, 50)


@pytest.fixture(scope="module")
def known(digits_test):
    return digits_test.take(30, 1)


@pytest.fixture(scope="module")
def stamp(digits_train):
    return trigger("static", size=2).made(digits_train, TARGET)


@pytest.fixture(scope="module")
def planted(digits_train, stamp):
    """The network of `digits_model` with a backdoor. Do not change it."""
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5)
    train(model, poisoned(digits_train, stamp, TARGET, 0.1), TrainConfig(epochs=8, batch_size=64, learning_rate=4e-3))
    return model


@pytest.fixture(scope="module")
def scanned(planted, known):
    """Evidence on the network with the backdoor."""
    return Scan(detectors=(Inversion(steps=120), Margin(), Sweep())).run(planted, known)


def evidence(hits, name="one", problem=None, threshold=1.0):
    return Evidence(name, "", (0.0,) * 5, tuple(2.0 if each in hits else 0.0 for each in range(5)), threshold, "", problem)


def test_a_backdoor_is_found_with_its_class_and_a_clean_model_passes(planted, scanned, digits_model, digits_test, known, stamp):
    assert accuracy(planted, digits_test)["value"] > 0.95
    assert success(planted, digits_test, stamp, TARGET)["value"] > 0.95
    assert success(digits_model, digits_test, stamp, TARGET)["value"] < 0.1
    verdict, clean = verdict_of(planted, known, scanned)
    assert (verdict.outcome, verdict.classes) == ("backdoored", (TARGET,))
    assert clean == accuracy(planted, known)
    before = model_hash(digits_model)
    found, _ = verdict_of(digits_model, known, Scan(detectors=(Margin(), Sweep())).run(digits_model, known))
    assert (found.outcome, found.classes) == ("not found", ())
    assert model_hash(digits_model) == before


def test_the_inverted_trigger_is_smallest_for_the_target_lies_where_it_was_planted_and_works_elsewhere(
    planted, scanned, digits_test, known
):
    found = scanned[0]
    assert int(np.argmin(found.values)) == TARGET == found.hits[0]
    mask = found.arrays["mask"][TARGET, 0]
    assert mask[5:, 5:].sum() > 0.5 * mask.sum()
    assert mask.sum() == pytest.approx(found.values[TARGET], rel=1e-5)
    assert all(figure["value"] >= Inversion().wanted for figure in Inversion().carried(planted, found, known) if figure)
    rest = digits_test.select(np.flatnonzero(~np.isin(digits_test.ids, known.ids))).take(100)
    carried = Inversion().carried(planted, found, rest)
    assert carried[TARGET]["value"] > 0.8
    assert carried[TARGET]["count"] == int((rest.labels != TARGET).sum())
    assert np.abs(found.arrays["pattern"] - 0.5).max() <= 0.5


def test_a_scan_gives_the_same_for_any_order_of_the_samples_and_another_for_another_seed(planted, known):
    quick = (Inversion(steps=20, wanted=0.1), Margin(steps=3), Sweep())
    one = [each.to_dict() for each in Scan(detectors=quick).run(planted, known)]
    back = known.select(np.arange(len(known))[::-1])
    assert [each.to_dict() for each in Scan(detectors=quick).run(planted, back)] == one
    other = [each.to_dict() for each in Scan(detectors=quick, seed=1).run(planted, known)]
    assert other[0]["values"] != one[0]["values"]
    assert other[1]["values"] != one[1]["values"]


def test_a_class_that_no_mask_reaches_counts_as_all_pixels_and_too_few_are_a_problem(planted, known):
    found = Inversion(steps=1, wanted=1.0).run(planted, known)
    assert found.reached == (False,) * 10
    assert found.values == (64.0,) * 10
    assert "0 of 10 classes were reached" in found.problem
    assert Inversion().carried(planted, found, known) == [None] * 10


@pytest.mark.parametrize("counts", [False, True])
def test_events_stay_events_on_the_way(digits_test, monkeypatch, counts):
    data = events_of(digits_test.take(6), 2, counts=counts)
    model = build(
        "mlp", input_shape=data.sample_shape, classes=10, steps=2, domain=data.domain, max_count=data.max_count, channels=0.1
    ).eval()
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, generator=None: seen.append(x.detach().clone()) or forward(x))
    found = Inversion(steps=3, wanted=0.01)
    result = found.run(model, data)
    found.carried(model, result, data)
    Margin(starts=2, steps=2).run(model, data)
    assert len(seen) > 6
    most = data.max_count or 1
    for x in seen:
        assert torch.equal(x, x.round())
        assert x.min() >= 0
        assert x.max() <= most
    assert result.arrays["pattern"].shape == (10, *data.sample_shape)
    assert result.arrays["mask"].shape == (10, 1, *data.sample_shape[-2:])


def test_the_p_value_is_that_of_the_largest_of_k_under_the_law_of_the_others():
    margins = np.array([5.0, 5.5, 6.0, 5.2, 6.9])
    shape, _, scale = gamma.fit(margins[:4], floc=0)
    found = p_values(margins)
    assert found[4] == pytest.approx(1 - gamma.cdf(6.9, shape, scale=scale) ** 5, rel=1e-6)
    assert found[4] < 0.01 < 0.5 < min(found[:4])
    larger = p_values(np.array([5.0, 5.5, 6.0, 5.2, 12.0]))
    assert 0 < larger[4] < found[4]
    assert p_values(np.array([1.0, 1.0, 1.0, 5.0]))[3] < 1e-3


class Fixed(nn.Module):
    """Logits times a factor of the input's mean; no gradient at all for 0."""

    def __init__(self, logits, factor=0.0):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.factor = factor
        self.spec = ModelSpec("image", (1, 8, 8), len(logits), 1, "direct", "membrane", False)

    def forward(self, x):
        return self.logits + self.factor * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("detector", [Inversion(steps=2), Margin(steps=2, starts=1)])
def test_a_gradient_of_zero_is_a_problem_and_no_result(known, detector):
    found = detector.run(Fixed([3.0] + [0.0] * 9), known)
    assert "zero gradient" in found.problem
    assert found.hits == ()
    assert judged([found, found], RIGHT, 0.1).outcome == "inconclusive"


def test_a_class_that_no_input_reaches_is_a_problem_of_the_margins(known):
    found = Margin(steps=2, starts=2).run(Fixed([3.0] + [0.0] * 9, factor=1.0), known)
    assert "no gradient reached" in found.problem or "no input was found" in found.problem


def test_the_margin_of_a_network_that_counts_spikes_is_that_of_its_membrane(known):
    model = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, readout="spike-count", steps=2).eval()
    found = Margin(starts=2, steps=3).run(model, known)
    assert len({round(each, 6) for each in found.values}) == 10  # counts of two steps could take three values


def test_the_sweep_tells_the_largest_rise_of_each_share_and_leaves_the_model_alone(planted, known):
    before = model_hash(planted)
    found = Sweep(factors=(0.1, 0.5)).run(planted, known)
    assert model_hash(planted) == before
    now, rows = shares(planted, known), found.arrays["shares"]
    assert now.sum() == pytest.approx(1)
    with scaled(planted, tamperable(planted), "threshold", 0.1):
        assert rows[:, 0] == pytest.approx(shares(planted, known))
    assert rows.shape == (10, 2)
    assert found.values == pytest.approx((rows - now[:, None]).max(1))
    assert found.hits == ()
    assert found.against(0.0, "").hits[0] == int(np.argmax(found.values))
    assert "no layer" in Scan().left_out(Fixed([0.0] * 10))["sweep"]
    with pytest.raises(ConfigError, match="in \\(0, 1\\)"):
        Sweep(factors=(0.5, 1.0))


def test_an_outlier_is_counted_in_deviations_with_a_floor():
    values = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    assert outliers(values) == pytest.approx([each / 1.4826 for each in (-2, -1, 0, 1, 7)])
    assert outliers(values, 10.0) == pytest.approx([-0.2, -0.1, 0, 0.1, 0.7])
    assert max(outliers(np.array([1.0, 1.0, 1.0, 2.0]))) == 1e6


@pytest.mark.parametrize(
    ("given", "outcome", "classes", "reasons"),
    [
        ([evidence([]), evidence([])], "not found", (), []),
        ([evidence([3]), evidence([3], "two")], "backdoored", (3,), []),
        ([evidence([3]), evidence([1, 3], "two")], "backdoored", (3,), []),
        ([evidence([3]), evidence([], "two")], "inconclusive", (), ["one alone names class 3"]),
        ([evidence([3]), evidence([1], "two")], "inconclusive", (), ["one alone names class 3", "two alone names class 1"]),
        (
            [evidence([3]), evidence([3], "two", "broken"), evidence([], "three")],
            "inconclusive",
            (),
            ["two: broken", "one alone"],
        ),
        ([evidence([3]), evidence([3], "two"), evidence([], "three", "broken")], "backdoored", (3,), ["three: broken"]),
        ([evidence([3], threshold=None), evidence([3], "two", threshold=None)], "not found", (), []),
        ([evidence([], problem="broken"), evidence([], "two")], "inconclusive", (), ["one: broken"]),
    ],
)
def test_a_verdict_needs_two_detectors_that_name_one_class(given, outcome, classes, reasons):
    found = judged(given, RIGHT, 0.2)
    assert (found.outcome, found.classes) == (outcome, classes)
    assert len(found.reasons) == len(reasons)
    for each, told in zip(found.reasons, reasons, strict=True):
        assert each.startswith(told)


def test_a_model_that_guesses_cannot_be_judged():
    found = judged([evidence([3]), evidence([3], "two")], proportion(10, 50), 0.2)
    assert found.outcome == "inconclusive"
    assert "no better than guessing" in found.reasons[0]


def test_reference_models_set_the_threshold_to_the_largest_of_theirs(planted, known):
    rows = [[evidence([1] if each == 4 else [], "sweep")] for each in range(9)]
    scan = Scan(detectors=(Sweep(),)).calibrated(rows)
    assert (dict(scan.bounds), scan.references) == ({"sweep": 2.0}, 9)
    (found,) = scan.run(planted, known)
    assert found.threshold == 2.0
    assert "9 clean reference models" in found.source
    with pytest.raises(ConfigError, match="at least 9 reference models, got 8"):
        Scan().calibrated(rows[:8])
    with pytest.raises(ConfigError, match="cannot be judged by two: broken"):
        Scan().calibrated([*rows, [evidence([], "two", "broken")]])


def test_few_classes_are_refused(known):
    with pytest.raises(ConfigError, match="at least 4 classes, got 3"):
        Scan().run(Fixed([0.0] * 3), known)


def test_evidence_is_plain_and_its_numbers_are_numbers(scanned):
    for each in scanned:
        told = each.to_dict()
        assert len(told["values"]) == len(told["index"]) == 10
        assert all(math.isfinite(value) for value in told["values"] + told["index"])
        assert told["hits"] == list(each.hits)
