"""Out-of-distribution detection: its figures against references, its intervals against simulation, and its signals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from trustsnn.attacks.ood import Signals, detection, evaluate_ood, scores, shuffled, signals, uniform_noise
from trustsnn.blocks import frozen, observe, predict
from trustsnn.errors import ConfigError, DataError
from trustsnn.rng import Draws


def ids(count: int, name: str = "s") -> list[str]:
    return [f"{name}{i}" for i in range(count)]


@pytest.fixture(scope="module")
def images(digits_test):
    return torch.from_numpy(digits_test.batch(range(120))[0])


@settings(deadline=None, max_examples=80)
@given(n=st.integers(2, 60), m=st.integers(2, 60), levels=st.integers(1, 30), shift=st.floats(-2, 2), seed=st.integers(0, 99))
def test_detection_agrees_with_scikit_learn(n, m, levels, shift, seed):
    """With and without ties: AUROC, and the false positive rate at the first threshold that 95 % of the inside pass."""
    generator = np.random.default_rng(seed)
    inside = np.round(generator.standard_normal(n) * levels) + shift * levels
    outside = np.round(generator.standard_normal(m) * levels)
    found = detection(inside, outside)
    truth = np.r_[np.ones(n), np.zeros(m)]
    values = np.r_[inside, outside]
    assert found.auroc == pytest.approx(roc_auc_score(truth, values))
    assert 0 <= found.low <= found.auroc + 1e-9 <= found.high + 2e-9 <= 1 + 3e-9
    assert (found.inside, found.outside, found.fpr_at_95_tpr["count"]) == (n, m, m)
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    assert found.fpr_at_95_tpr["value"] == pytest.approx(false[true >= 0.95 - 1e-12].min())
    mirrored = detection(-outside, -inside)
    assert mirrored.auroc == pytest.approx(found.auroc)
    assert detection(outside, inside).auroc == pytest.approx(1 - found.auroc)


def test_the_interval_covers_the_truth():
    """Normal scores one deviation apart: AUROC is Phi(1/sqrt 2) = 0.7602, in 95 % of the intervals of 600 small studies."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(600):
        found = detection(generator.standard_normal(40) + 1, generator.standard_normal(30))
        covered += found.low <= 0.760250 <= found.high
    assert 0.93 <= covered / 600 <= 0.975


def test_delong_variance_by_hand():
    """Placements of {3, 1, 2} above {0, 2.5}: 1, 1/2, 1/2 and 1, 1/3; variance 1/12/3 + 2/9/2."""
    found = detection(np.array([3.0, 1.0, 2.0]), np.array([0.0, 2.5]))
    auroc, deviation = 2 / 3, np.sqrt((1 / 12) / 3 + (2 / 9) / 2)
    centre, half = np.log(auroc / (1 - auroc)), 1.959964 * deviation / (auroc * (1 - auroc))
    assert found.auroc == pytest.approx(auroc)
    assert (found.low, found.high) == pytest.approx(tuple(1 / (1 + np.exp(-centre - side)) for side in (-half, half)), abs=1e-6)


def test_perfect_separation_is_not_certainty():
    """20 pairs in order: the exact lower bound is 0.025^(1/20)."""
    found = detection(np.arange(20.0) + 100, np.arange(50.0))
    assert (found.auroc, found.high, found.fpr_at_95_tpr["value"]) == (1.0, 1.0, 0.0)
    assert found.low == pytest.approx(0.025 ** (1 / 20))
    tied = detection(np.zeros(20), np.zeros(20))
    assert tied.auroc == 0.5
    assert tied.low < 0.35
    assert tied.high > 0.65


def test_bad_scores_are_refused():
    with pytest.raises(DataError, match="at least 2 finite scores"):
        detection(np.array([1.0]), np.array([1.0, 2.0]))
    with pytest.raises(DataError, match="NaN"):
        detection(np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(DataError, match="finite logits"):
        scores(Signals(np.array([[0.0, np.inf]]), {}))


def test_scores_by_hand():
    logits = np.array([[1.0, 2.0, 3.0], [900.0, 0.0, 0.0]])
    reference = Signals(logits, {"total": np.array([0.1, 0.3])})
    found = scores(Signals(logits, {"total": np.array([0.25, 0.2])}), reference)
    assert found["energy"] == pytest.approx([np.log(np.exp([1, 2, 3]).sum()), 900.0])
    assert found["max-logit"].tolist() == [3.0, 900.0]
    assert np.exp(found["max-softmax"]) == pytest.approx(softmax(logits, axis=1).max(1))
    assert found["spike-rate/total"] == pytest.approx([-0.05, 0.0])
    assert list(scores(Signals(logits, {}))) == ["energy", "max-logit", "max-softmax"]
    with pytest.raises(ConfigError, match="of one model"):
        scores(Signals(logits, {}), reference)


def test_signals_agree_with_prediction_and_observation(digits_model, images):
    x = images[:40]
    seen = signals(digits_model, x, ids(40))
    with frozen(digits_model):
        np.testing.assert_allclose(seen.logits, predict(digits_model, x).double().numpy(), rtol=1e-6, atol=1e-6)
        spikes = observe(digits_model, x).spikes
    assert list(seen.rates) == ["total", *spikes]
    for name, (fired, places) in spikes.items():
        assert seen.rates[name].mean() == pytest.approx(fired / places)
    total = sum(fired for fired, _ in spikes.values()) / sum(places for _, places in spikes.values())
    assert seen.rates["total"].mean() == pytest.approx(total)


def test_signals_depend_on_neither_batch_nor_order(digits_model, poisson_model, images):
    x, keys = images[:37], ids(37)
    back = list(range(37))[::-1]
    for model in (digits_model, poisson_model):
        whole = signals(model, x, keys)
        turned = signals(model, x[back], [keys[i] for i in back])
        one = signals(model, x[5:6], keys[5:6])
        assert (turned.logits == whole.logits[back]).all()
        assert (one.logits == whole.logits[5:6]).all()
        for name, rate in whole.rates.items():
            assert (turned.rates[name] == rate[back]).all()
            assert (one.rates[name] == rate[5:6]).all()


def test_noise_is_told_from_digits_and_digits_are_not_told_from_digits(digits_model, images):
    reference, inside, same = (signals(digits_model, images[start::3], ids(40)) for start in range(3))
    outside = signals(digits_model, uniform_noise(images[:60], Draws(0, "noise", tuple(ids(60)))), ids(60, "n"))
    found = evaluate_ood(inside, outside, reference)
    assert {"energy", "max-logit", "max-softmax", "spike-rate/total"} < set(found)
    assert max(each.auroc for each in found.values()) > 0.9
    for each in evaluate_ood(inside, same, reference).values():
        assert each.low - 0.05 < 0.5 < each.high + 0.05


def test_a_model_without_unroll_has_no_rates(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    seen = signals(model, images[:5], ids(5))
    assert seen.logits.shape == (5, 10)
    assert seen.rates == {}
    assert model.training


def test_noise_inputs_are_keyed_by_sample(images):
    draws = Draws(0, "noise", tuple(ids(6)))
    for make in (uniform_noise, shuffled):
        whole = make(images[:6], draws)
        assert whole.shape == images[:6].shape
        assert torch.equal(make(images[2:4], draws.select([2, 3])), whole[2:4])
        assert not torch.equal(whole, images[:6])
    moved = shuffled(images[:6], draws)
    assert torch.equal(moved.flatten(1).sort(1).values, images[:6].flatten(1).sort(1).values)


def test_ids_must_fit(digits_model, images):
    with pytest.raises(ConfigError, match="one id a sample"):
        signals(digits_model, images[:3], ids(2))
