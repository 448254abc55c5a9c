"""Membership scores against written-out references and a public implementation's formulae, and what a ROC curve's figures must be."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from trustsnn.attacks.leakage import membership as m
from trustsnn.attacks.leakage.roc import area, rates
from trustsnn.errors import ConfigError


@pytest.fixture
def tiny():
    """12 samples in 8 shadow models, half of them with each: probabilities of the target, of the shadow models, and who was in."""
    draws = np.random.default_rng(4)
    inside = np.stack([draws.permutation(np.arange(8) < 4) for _ in range(12)], 1)
    shadows = np.clip(draws.beta(5, 2, (8, 12)) + 0.1 * inside, 0.01, 0.99)
    return np.clip(draws.beta(5, 2, 12), 0.01, 0.99), shadows, inside


def logit(p):
    return math.log(p / (1 - p))


def density(value, mean, sd):
    return -((value - mean) ** 2) / (2 * sd**2) - math.log(sd) - 0.5 * math.log(2 * math.pi)


def sides(shadows, inside, sample):
    found = {True: [], False: []}
    for row, model in zip(inside[:, sample], shadows[:, sample], strict=True):
        found[bool(row)].append(logit(model))
    return found


def test_lira_equals_its_written_out_reference(tiny):
    target, shadows, inside = tiny
    got = m.lira(m.logit_of(target)[:, None], m.logit_of(shadows)[..., None], inside, spread="per-sample")
    pooled = m.lira(m.logit_of(target)[:, None], m.logit_of(shadows)[..., None], inside)
    offline = m.lira_offline(m.logit_of(target)[:, None], m.logit_of(shadows)[..., None], inside)
    centres = [{side: statistics.median(values) for side, values in sides(shadows, inside, n).items()} for n in range(12)]
    spread = {
        side: math.sqrt(sum((v - centres[n][side]) ** 2 for n in range(12) for v in sides(shadows, inside, n)[side]) / (12 * 3))
        for side in (True, False)
    }
    for n in range(12):
        x, both = logit(target[n]), sides(shadows, inside, n)
        own = {side: statistics.pstdev(values) for side, values in both.items()}
        expected = density(x, centres[n][True], own[True]) - density(x, centres[n][False], own[False])
        assert got[n] == pytest.approx(expected, abs=1e-6)
        expected = density(x, centres[n][True], spread[True]) - density(x, centres[n][False], spread[False])
        assert pooled[n] == pytest.approx(expected, abs=1e-6)
        assert offline[n] == pytest.approx((x - centres[n][False]) / spread[False], abs=1e-6)


def test_lira_ranks_as_the_authors_formulae_do(tiny):
    """The published code takes medians, standard deviations by sample and the difference of log-densities."""
    target, shadows, inside = tiny
    data = np.log(shadows / (1 - shadows))
    scores = []
    for n in range(12):
        dat_in, dat_out = data[inside[:, n], n], data[~inside[:, n], n]
        sc = np.log(target[n] / (1 - target[n]))
        pr_in = -norm.logpdf(sc, np.median(dat_in), np.std(dat_in) + 1e-30)
        pr_out = -norm.logpdf(sc, np.median(dat_out), np.std(dat_out) + 1e-30)
        scores.append(pr_in - pr_out)  # smaller for members there
    got = m.lira(m.logit_of(target)[:, None], m.logit_of(shadows)[..., None], inside, spread="per-sample")
    assert np.array_equal(rankdata(got), rankdata(-np.array(scores)))


@pytest.mark.parametrize("online", [True, False])
def test_rmia_equals_its_written_out_reference(tiny, online):
    target, shadows, inside = tiny
    draws = np.random.default_rng(1)
    population, theirs = draws.beta(5, 2, 9), draws.beta(5, 2, (8, 9))
    ratio = m.rmia_ratio(target, shadows, inside, online=online)
    nothing = np.zeros((8, 9), dtype=bool)
    of_population = m.rmia_ratio(population, theirs, nothing, online=False)
    got = m.rmia(ratio, of_population)
    for n in range(12):
        without = [shadows[s, n] for s in range(8) if not inside[s, n]]
        with_x = [shadows[s, n] for s in range(8) if inside[s, n]]
        marginal = (sum(without) / 4 + sum(with_x) / 4) / 2 if online else (1 + 0.3) / 2 * sum(without) / 4 + (1 - 0.3) / 2
        assert ratio[n] == pytest.approx(target[n] / marginal, abs=1e-6)
        beaten = 0
        for z in range(9):
            of_z = population[z] / ((1 + 0.3) / 2 * sum(theirs[:, z]) / 8 + (1 - 0.3) / 2)
            beaten += (target[n] / marginal) / of_z >= 1
        assert got[n] == pytest.approx(beaten / 9, abs=1e-6)


def test_reference_attacks_count_shares(tiny):
    target, shadows, inside = tiny
    reference = m.attack_r(target, shadows, inside)
    population = np.array([0.2, 0.5, 0.9])
    for n in range(12):
        assert reference[n] == sum(target[n] >= shadows[s, n] for s in range(8) if not inside[s, n]) / 4
    assert m.attack_p(np.array([0.1, 0.5, 0.95]), population).tolist() == [0, 2 / 3, 1]


def test_a_feature_of_several_entries_uses_their_covariance():
    """Two entries that say the same must not count twice."""
    draws = np.random.default_rng(0)
    inside = np.stack([draws.permutation(np.arange(16) < 8) for _ in range(40)], 1)
    shadows = draws.normal(size=(16, 40, 1)) + inside[..., None]
    target = draws.normal(size=(40, 1))
    doubled = [np.concatenate([each, each + 1e-4 * draws.normal(size=each.shape)], -1) for each in (target, shadows)]
    one = m.lira(target, shadows, inside)
    two = m.lira(*doubled, inside)
    assert np.corrcoef(one, two)[0, 1] > 0.9
    assert np.abs(two).max() < 2 * np.abs(one).max()


def test_too_few_shadow_models_are_one_error(tiny):
    target, shadows, inside = tiny
    one = np.zeros_like(inside)
    for call in (
        lambda: m.lira(target[:, None], shadows[..., None], one),
        lambda: m.rmia_ratio(target, shadows, one, online=True),
        lambda: m.attack_r(target, shadows, ~one),
    ):
        with pytest.raises(ConfigError, match="Expected at least 2 shadow models"):
            call()
    with pytest.raises(ConfigError, match="spread"):
        m.lira(target[:, None], shadows[..., None], inside, spread="none")
    with pytest.raises(ConfigError, match="1 entry"):
        m.lira_offline(np.zeros((12, 2)), np.zeros((8, 12, 2)), inside)


@settings(deadline=None, max_examples=50)
@given(
    members=st.lists(st.integers(0, 9), min_size=2, max_size=40), others=st.lists(st.integers(0, 9), min_size=2, max_size=40),
)  # fmt: skip
def test_area_and_rates_equal_independent_ones(members, others):
    a, b = np.array(members, dtype=float), np.array(others, dtype=float)
    figure = area(a, b)
    expected = roc_auc_score([1] * len(a) + [0] * len(b), np.concatenate([a, b]))
    assert figure["value"] == pytest.approx(expected, abs=1e-12)
    assert figure["low"] - 1e-12 <= figure["value"] <= figure["high"] + 1e-12
    for each in rates(a, b, [0.1, 0.5, 1.0]):
        fits = [t for t in [-1.0, *b] if (b > t).sum() <= int(each["fpr"] * len(b) + 1e-9)]
        assert each["successes"] == (a > min(fits)).sum()
        assert each["low"] <= each["value"] <= each["high"]
        assert (each["status"] == "ok") == (len(b) * each["fpr"] >= 1)


def test_intervals_of_the_area_hold_what_they_should():
    """Of 200 draws from two normals that are 1 apart, about 95 % of the intervals hold the true area."""
    draws = np.random.default_rng(2)
    truth = float(norm.cdf(1 / math.sqrt(2)))
    held = 0
    for _ in range(200):
        figure = area(draws.normal(1, 1, 100), draws.normal(0, 1, 150))
        held += figure["low"] <= truth <= figure["high"]
    assert 182 <= held <= 199


def test_perfect_separation_still_has_an_interval():
    figure = area(np.arange(10) + 100.0, np.arange(20.0))
    assert figure["value"] == 1
    assert 0.6 < figure["low"] < 0.8
    with pytest.raises(ConfigError, match="members and others"):
        area(np.zeros(0), np.zeros(3))
