"""The bound of a one-run audit by exact arithmetic, and what it says of right and wrong layouts of time."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from trustsnn.defenses.dp import PrivacyConfig, eps_lower_bound, noise_canaries, one_run_audit
from trustsnn.defenses.dp.audit import p_value
from trustsnn.defenses.dp.layouts import LAYOUTS, stock_opacus
from trustsnn.errors import ConfigError


def test_all_right_has_a_bound_in_closed_form():
    """delta = 0 and v = r: q^r = 0.05 with q = e^eps / (1 + e^eps)."""
    for guesses in (10, 100, 1000):
        right = 0.05 ** (1 / guesses)
        found = eps_lower_bound(canaries=1000, guesses=guesses, correct=guesses, delta=0.0)
        assert found == pytest.approx(math.log(right / (1 - right)), abs=1e-9)


@pytest.mark.parametrize(("guesses", "correct"), [(20, 17), (12, 12), (30, 16)])
def test_p_value_in_exact_fractions(guesses, correct):
    """eps = ln 3, so that a right guess has the probability 3/4."""
    chance, delta, canaries = Fraction(3, 4), Fraction(1, 1000), 40

    def exactly(count):
        return math.comb(guesses, count) * chance**count * (1 - chance) ** (guesses - count)

    beta = sum(exactly(count) for count in range(correct, guesses + 1))
    alpha = max(sum(exactly(count) for count in range(correct - i, correct)) / i for i in range(1, correct + 1))
    expected = min(1.0, float(beta + 2 * canaries * delta * alpha))
    assert p_value(math.log(3), 1e-3, canaries=canaries, guesses=guesses, correct=correct) == pytest.approx(expected, rel=1e-12)


def test_the_bound_rises_with_right_guesses_and_falls_with_delta_and_confidence():
    def bound(correct=90, delta=1e-5, confidence=0.95):
        return eps_lower_bound(canaries=200, guesses=100, correct=correct, delta=delta, confidence=confidence)

    bounds = [bound(correct) for correct in range(0, 101, 5)]
    assert bounds == sorted(bounds)
    assert bounds[0] == bounds[10] == 0.0 < bounds[-1]
    assert bound(delta=0.0) > bound() > bound(delta=1e-3) > bound(delta=1e-2)
    assert bound(confidence=0.9) > bound() > bound(confidence=0.99)


def test_a_bound_at_an_eps_is_right_in_all_but_one_of_twenty_runs():
    """Randomised response at eps = 1, whose guesses are right with e / (1 + e): the binomial tail beyond the bound."""
    from scipy.stats import binom

    guesses, right = 200, 1 / (1 + math.exp(-1))
    exceeds = [v for v in range(guesses + 1) if eps_lower_bound(canaries=200, guesses=guesses, correct=v, delta=0.0) > 1]
    assert 0.02 < binom.sf(min(exceeds) - 1, guesses, right) <= 0.05


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ConfigError, match="correct <= guesses <= canaries"):
        p_value(1.0, 0.0, **dict(zip(("canaries", "guesses", "correct"), counts, strict=True)))


@pytest.mark.parametrize(("layout", "holds"), [("looped", True), ("folded", False)])
def test_the_folded_layout_is_refuted_and_the_right_one_is_not(layout, holds):
    pytest.importorskip("opacus")
    torch.manual_seed(0)
    model = LAYOUTS[layout](64, 10, hidden=64, steps=8)
    before = [p.clone() for p in model.parameters()]
    nothing = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)
    privacy = PrivacyConfig(eps=1.0, clip=0.05, accountant="rdp")
    found = one_run_audit(model, nothing, noise_canaries(120, (1, 8, 8), 10), privacy, gradients=stock_opacus, steps=5)
    assert found.holds is holds
    assert (found.lower <= found.eps) is holds
    assert 0.98 <= found.eps <= 1
    assert (found.canaries, found.guesses) == (120, 60)
    assert ("false" in found.sentence) is not holds
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_audits_out_of_range_are_refused():
    model, (x, y) = LAYOUTS["looped"](64, 10), noise_canaries(4, (1, 8, 8), 10)
    for settings in ({"guesses": 5}, {"guesses": 1}, {"rate": 0.0}, {"steps": 0}):
        with pytest.raises(ConfigError, match="2 to 4 guesses"):
            one_run_audit(model, (x, y), (x, y), PrivacyConfig(eps=1.0), **settings)
