"""Intervals and tests of proportions, held against scipy.stats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trustsnn.statistics import at_least, clopper_pearson, median, placements, sign_test, wilson

COUNTS = [1, 2, 5, 8, 25, 360, 10_000]


@pytest.mark.parametrize("count", COUNTS)
def test_intervals_of_a_proportion(count):
    for successes in sorted({0, 1, count // 3, count - 1, count}):
        for confidence in (0.9, 0.95, 0.999):
            reference = stats.binomtest(successes, count)
            for found, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
                known = reference.proportion_ci(confidence, method=method)
                assert found(successes, count, confidence) == pytest.approx((known.low, known.high), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("count", COUNTS)
def test_binomial_tests(count):
    for successes in sorted({0, 1, count // 3, count // 2, count - 1, count}):
        for probability in (0.01, 0.25, 0.5):
            known = stats.binomtest(successes, count, probability, alternative="greater").pvalue
            assert at_least(successes, count, probability) == pytest.approx(known, rel=1e-9)
        known = stats.binomtest(successes, count, 0.5).pvalue
        assert (
            sign_test(successes, count - successes) == sign_test(count - successes, successes) == pytest.approx(known, rel=1e-9)
        )


def test_nothing_counted_shows_nothing():
    assert at_least(0, 0, 0.25) == sign_test(0, 0) == 1.0


@pytest.mark.parametrize("count", [1, 5, 6, 7, 100, 101, 2000])
def test_the_interval_of_a_median(count):
    rank = int(stats.binom.ppf(0.025, count, 0.5))
    found = median([float(value) for value in range(count)])
    assert found == ((count - 1) // 2, rank - 1, count - rank) if rank else found == ((count - 1) // 2, 0.0, math.inf)


@pytest.mark.parametrize("of", [1, 4, 1000])
def test_placements_are_those_of_mid_ranks(of):
    """Sun and Xu (2014): with ties, and groups of different sizes."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 50, 40) / of, rng.integers(0, 40, 25) / of
    ranks = stats.rankdata(np.concatenate([first, second]))
    above, below = placements(first, second)
    np.testing.assert_allclose(above, (ranks[:40] - stats.rankdata(first)) / 25, atol=1e-15)
    np.testing.assert_allclose(below, 1 - (ranks[40:] - stats.rankdata(second)) / 40, atol=1e-15)
    area = stats.mannwhitneyu(first, second).statistic / (40 * 25)
    assert above.mean() == pytest.approx(area)
    assert below.mean() == pytest.approx(area)
