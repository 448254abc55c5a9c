"""eps and sigma against Opacus and a published figure, settings that fit no guarantee, and where the randomness comes from."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.stats import kstest

from trustsnn.defenses.dp import PrivacyConfig, epsilon, noise_for
from trustsnn.defenses.dp.noise import Secret, Seeded
from trustsnn.defenses.dp.privacy import guarantee
from trustsnn.errors import ConfigError, MissingExtraError

RUN = {"rate": 0.04, "steps": 2250, "delta": 1e-5}


def test_the_gold_figure():
    pytest.importorskip("opacus")
    assert epsilon("rdp", sigma=1.5, **RUN) == pytest.approx(7.32911117143, abs=1e-9)  # design, METHODS section 12
    assert epsilon("rdp", sigma=1.5, **{**RUN, "steps": 0}) == 0


@pytest.mark.parametrize(("accountant", "name"), [("rdp", "RDPAccountant"), ("prv", "PRVAccountant")])
def test_eps_is_that_of_opacus_step_by_step(accountant, name):
    theirs = getattr(pytest.importorskip("opacus.accountants"), name)()
    for _ in range(40):
        theirs.step(noise_multiplier=1.1, sample_rate=0.1)
    found = epsilon(accountant, sigma=1.1, rate=0.1, steps=40, delta=1e-5)
    assert found == pytest.approx(theirs.get_epsilon(1e-5), abs=1e-9)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_the_noise_spends_what_was_asked_for_and_no_more(accountant):
    pytest.importorskip("opacus")
    sigma = noise_for(2.0, accountant, **RUN)
    assert 1.98 <= epsilon(accountant, sigma=sigma, **RUN) <= 2.0
    with pytest.raises(ConfigError, match="Ask for more eps"):
        noise_for(1e-9, "rdp", **RUN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.0}, r"positive, finite eps \(--eps\), got 0.0"),
        ({"eps": -1.0}, "positive, finite eps"),
        ({"eps": float("nan")}, "positive, finite eps"),
        ({"eps": float("inf")}, "positive, finite eps"),
        ({"sigma": 0.0}, "positive, finite sigma"),
        ({"eps": 8.0, "clip": 0.0}, r"positive, finite clip \(--clip\), got 0.0"),
        ({"eps": 8.0, "delta": 0.0}, "delta in"),
        ({"eps": 8.0, "delta": 1.0}, "delta in"),
        ({"eps": 8.0, "sigma": 1.0}, "either eps or sigma"),
        ({}, "either eps or sigma"),
        ({"eps": 8.0, "accountant": "moments"}, "Known: prv, rdp"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PrivacyConfig(**settings)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"samples": 100, "batch_size": 101}, "at most the 100 samples"),
        ({"samples": 10**6, "batch_size": 10}, "below 1 / samples"),
    ],
)
def test_sizes_that_fit_no_guarantee_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        guarantee(PrivacyConfig(eps=8.0), epochs=1, randomness="seed", **sizes)


def test_a_missing_opacus_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(MissingExtraError, match=r"'opacus'.*pip install 'trustsnn\[dp\]'"):
        epsilon("rdp", sigma=1.5, **RUN)


@pytest.mark.parametrize("source", [Secret(), Seeded(3)], ids=["secret", "seeded"])
def test_noise_is_standard_normal_and_batches_are_poisson_samples(source):
    """A right generator fails each of these once in a million runs."""
    assert kstest(source.normal(0, 20_000), "norm").pvalue > 1e-6
    assert kstest(source.uniform(0, 20_000), "uniform").pvalue > 1e-6
    sizes = [len(source.batch(step, 1000, 0.1)) for step in range(200)]
    assert abs(np.mean(sizes) - 100) < 5 * np.sqrt(90 / 200)
    assert 60 < np.var(sizes) < 130  # 90, and 0 for batches of one size


def test_only_a_seed_draws_the_same_again():
    assert np.array_equal(Seeded(1).normal(5, 10), Seeded(1).normal(5, 10))
    assert not np.array_equal(Seeded(1).normal(5, 10), Seeded(1).normal(6, 10))
    assert not np.array_equal(Seeded(1).normal(5, 10), Seeded(2).normal(5, 10))
    assert not np.array_equal(Secret().normal(5, 10), Secret().normal(5, 10))
    assert not np.array_equal(Secret().uniform(5, 10), Secret().uniform(5, 10))
