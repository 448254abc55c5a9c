"""Privacy of clients: clip, sensitivity, noise, sampling, the adaptive clip against Flower's, and what local training costs."""

from __future__ import annotations

import math
import warnings
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from trustsnn.defenses.dp import PrivacyConfig, epsilon
from trustsnn.defenses.dp.noise import Randomness, Secret, Seeded
from trustsnn.defenses.dp.privacy import guarantee
from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import norm
from trustsnn.federated.ledger import Charge
from trustsnn.federated.privacy import (
    AdaptiveClip,
    client_guarantee,
    clipped,
    clipped_sum,
    local_charge,
    next_clip,
    noisy_mean,
    noisy_share,
    sampled,
    sum_multiplier,
)

LIKE = {"weight": np.zeros((2, 3), np.float32), "leak": np.zeros((), np.float32)}
values = st.floats(-(2.0**60), 2.0**60, width=32)
updates = st.lists(values, min_size=7, max_size=7).map(
    lambda v: {"weight": np.array(v[:6], np.float32).reshape(2, 3), "leak": np.array(v[6], np.float32)}
)
clips = st.floats(1e-3, 1e3)


def flat(arrays):
    return np.concatenate([np.ravel(arrays[name]) for name in sorted(arrays)]).astype(np.float64)


class Silent(Randomness):
    name = "none"

    def uniform(self, step, count):
        return np.zeros(count)

    def normal(self, step, count):
        return np.zeros(count)


@given(updates, clips)
@settings(max_examples=300)
def test_a_clipped_update_is_the_equation_s_and_within_the_norm(update, clip):
    found, inside = clipped(update, clip)
    size = math.sqrt(math.fsum(float(v) ** 2 for v in flat(update)))
    wanted = flat(update) * min(1.0, clip / size if size else 1.0)
    assert norm(found) <= clip
    assert inside == (norm(update) <= clip)
    np.testing.assert_allclose(flat(found), wanted, rtol=1e-6, atol=1e-40)
    again, still = clipped(found, clip)
    assert still
    np.testing.assert_array_equal(flat(again), flat(found))
    assert {n: (a.dtype, a.shape) for n, a in found.items()} == {n: (a.dtype, a.shape) for n, a in LIKE.items()}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_zero_stays_zero_and_what_is_not_finite_becomes_zero(bad):
    assert clipped(LIKE, 0.5)[1] is True
    broken = {**LIKE, "weight": np.array([[1, bad, 0], [0, 0, 0]], np.float32)}
    found, inside = clipped(broken, 0.5)
    assert not inside
    assert not flat(found).any()


@given(st.dictionaries(st.integers(0, 9), updates, max_size=6), updates, clips)
@settings(max_examples=150)
def test_a_client_that_comes_or_goes_moves_the_sum_by_at_most_the_clip(others, one, clip):
    """Whatever it sends: the server clips once more."""
    without, both = clipped_sum(others, clip, LIKE), clipped_sum({**others, 10: one}, clip, LIKE)
    assert np.linalg.norm(flat(both) - flat(without)) <= clip * (1 + 1e-12)
    turned = clipped_sum(dict(reversed({**others, 10: one}.items())), clip, LIKE)
    np.testing.assert_array_equal(flat(turned), flat(both))


@given(updates, st.floats(0.1, 5), st.floats(1.01, 50), st.floats(0.01, 10), st.lists(st.booleans(), max_size=5))
@settings(max_examples=150)
def test_sum_and_count_together_have_the_noise_multiplier_of_the_round(one, sigma, more, clip, bits):
    """In units of its noise, a client moves what is released by at most 1 / z."""
    deviation = sigma / 2 * more
    own, inside = clipped(one, clip)
    moved_sum = norm(own) / (sum_multiplier(sigma, deviation) * clip)
    shares = [noisy_share(b, deviation=0.0, expected=1.0, source=Silent(), server_round=0) for b in (bits, [*bits, inside])]
    moved_count = (shares[1] - shares[0]) / deviation
    assert abs(shares[1] - shares[0]) == pytest.approx(0.5)
    assert math.hypot(moved_sum, moved_count) <= (1 + 1e-9) / sigma


def test_the_noise_has_its_deviation_on_sum_and_count():
    total = {"b": np.full(40_000, 3.0), "a": np.full((300, 200), -2.0)}
    found = noisy_mean(total, deviation=1.4, expected=7.0, source=Secret(), server_round=0)
    assert found["a"].shape == (300, 200)
    noise = np.concatenate([found["b"] * 7 - 3.0, found["a"].ravel() * 7 + 2.0])
    assert len(noise) == 100_000
    assert noise.std() == pytest.approx(1.4, rel=0.02)
    assert kstest(noise / 1.4, "norm").pvalue > 1e-6
    counts = [
        noisy_share([True] * 6 + [False] * 2, deviation=2.0, expected=10, source=Seeded(1), server_round=r) for r in range(4000)
    ]
    assert np.mean(counts) == pytest.approx(0.7, abs=0.015)  # (6 - 2) / 2 / 10 + 1/2
    assert np.std(counts) == pytest.approx(0.2, rel=0.05)


def test_seeded_noise_is_repeatable_fresh_in_each_round_and_that_of_sum_and_count_is_not_shared():
    def of(server_round, seed=3):
        total = {name: np.zeros(array.shape) for name, array in LIKE.items()}
        draws = {"source": Seeded(seed), "server_round": server_round, "expected": 1.0, "deviation": 1.0}
        return np.append(flat(noisy_mean(total, **draws)), noisy_share([], **draws) - 0.5)

    np.testing.assert_array_equal(of(0), of(0))
    drawn = np.concatenate([of(0), of(1), of(2), of(0, seed=4)])
    assert len(np.unique(drawn.astype(np.float32))) == len(drawn)


def test_an_empty_round_releases_its_noise():
    total = clipped_sum({}, 1.0, LIKE)
    assert not flat(total).any()
    assert flat(noisy_mean(total, deviation=1.0, expected=2.0, source=Seeded(0), server_round=5)).all()


def test_the_mean_divides_by_the_expected_number_and_weighs_clients_alike():
    three = {c: {"weight": np.full((2, 3), c, np.float32), "leak": np.float32(0.0)} for c in (1, 2, 3)}
    found = noisy_mean(clipped_sum(three, 1e6, LIKE), deviation=0.0, expected=4.0, source=Secret(), server_round=0)
    np.testing.assert_allclose(found["weight"], 1.5)
    assert {found[n].dtype for n in found} == {np.dtype(np.float32)}
    assert all(isinstance(a, np.ndarray) for a in found.values())


def test_an_update_of_another_shape_is_refused():
    for wrong in ({"weight": np.zeros((2, 3))}, {**LIKE, "more": np.zeros(1)}, {**LIKE, "weight": np.zeros((1, 3))}):
        with pytest.raises(ConfigError, match=r"client 4 has other names or shapes"):
            clipped_sum({4: wrong}, 1.0, LIKE)


def test_clients_are_drawn_independently_with_their_rate_whatever_their_order():
    clients = [f"client {i}" for i in range(40)]
    drawn = [sampled(clients, 0.3, Seeded(2), r) for r in range(500)]
    assert drawn == [sampled(reversed(clients), 0.3, Seeded(2), r) for r in range(500)]
    sizes = np.array([len(each) for each in drawn])
    assert sizes.mean() == pytest.approx(12, abs=0.5)
    assert sizes.var() == pytest.approx(float(binom.var(40, 0.3)), rel=0.25)
    assert sampled([3, 1, 2], 1.0, Secret(), 0) == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"rate in \(0, 1\], got 0"):
        sampled([1], 0, Secret(), 0)


NORMS = np.exp(np.random.default_rng(0).normal(size=200))  # their median is about 1


def ours(clip, rounds=60):
    for r in range(rounds):
        bits = [clipped({"w": np.array([size], np.float32)}, clip)[1] for size in NORMS]
        clip = next_clip(clip, noisy_share(bits, deviation=1.0, expected=200.0, source=Seeded(0), server_round=r), AdaptiveClip())
    return clip


@pytest.mark.parametrize("start", [0.05, 20.0])
def test_the_clip_moves_to_the_quantile_of_the_norms(start):
    assert ours(start) == pytest.approx(np.median(NORMS), rel=0.1)


@pytest.fixture(scope="module")
def flower():
    """Flower 1.41's client-side clip, which returns its bit, and what its server makes of the share of bits."""
    pytest.importorskip("flwr")
    with warnings.catch_warnings(action="ignore"):
        privacy = import_module("flwr.supercore.differential_privacy")
        server = import_module("flwr.serverapp.strategy.dp_adaptive_clipping")
    return privacy.compute_adaptive_clip_model_update, server.DifferentialPrivacyAdaptiveBase._geometric_update


@pytest.mark.parametrize("start", [0.05, 20.0])
def test_the_bit_of_flower_drives_the_clip_away_from_the_norms(flower, start):
    """Its bit says that the update was clipped, where Andrew et al. and its server's step mean that it was not."""
    clip_update, step = flower
    held = SimpleNamespace(clipping_norm=start, clip_norm_lr=0.2, target_clipped_quantile=0.5)
    for _ in range(20):
        bits = [clip_update([np.array([size])], [np.zeros(1)], held.clipping_norm) for size in NORMS]
        step(held, np.mean(bits))
    median = np.median(NORMS)
    assert abs(math.log(held.clipping_norm / median)) > abs(math.log(start / median)) + 1.5
    assert abs(math.log(ours(start, 20) / median)) < abs(math.log(start / median)) - 1.5


def test_an_update_of_zero_breaks_flower_and_not_us(flower):
    with pytest.raises(ZeroDivisionError):
        flower[0]([np.zeros(2)], [np.zeros(2)], 1.0)
    assert clipped({"w": np.zeros(2, np.float32)}, 1.0)[1]


def test_the_count_s_share_of_the_noise():
    assert sum_multiplier(1.0, 5.0) == pytest.approx((1 - 0.01) ** -0.5)  # Andrew et al., theorem 1
    assert sum_multiplier(1.0, AdaptiveClip().deviation(100)) == sum_multiplier(1.0, 5.0)
    assert AdaptiveClip(count_deviation=3.0).deviation(100) == 3.0
    for deviation in (0.5, 0.2):
        with pytest.raises(ConfigError, match=r"half the noise multiplier 1, got 0\.\d\. Set count_deviation"):
            sum_multiplier(1.0, deviation)


def test_the_guarantee_of_clients_is_the_accountant_s():
    pytest.importorskip("opacus")
    asked = PrivacyConfig(sigma=1.1, delta=1e-4, accountant="rdp", clip=0.7)
    found = client_guarantee(asked, clients=50, rate=0.2, rounds=30, randomness="seed")
    assert found.eps == epsilon("rdp", sigma=1.1, rate=0.2, steps=30, delta=1e-4)
    assert found.to_dict()["adjacency"] == "add or remove one client"
    assert (found.steps, found.rate, found.clip, found.randomness) == (30, 0.2, 0.7, "seed")
    searched = client_guarantee(PrivacyConfig(eps=4.0, accountant="rdp"), clients=50, rate=0.2, rounds=30, randomness="seed")
    assert 3.96 <= searched.eps <= 4


def test_a_round_of_local_training_costs_its_steps_and_all_rounds_what_was_asked_for():
    pytest.importorskip("opacus")
    sizes = {"samples": 103, "batch_size": 10}
    charge = local_charge(PrivacyConfig(eps=3.0, accountant="rdp"), epochs=2, rounds=7, **sizes)
    trained = guarantee(PrivacyConfig(sigma=charge.sigma, accountant="rdp"), epochs=2, randomness="seed", **sizes)
    assert charge == Charge(trained.sigma, trained.rate, trained.steps)
    whole = epsilon("rdp", sigma=charge.sigma, rate=charge.rate, steps=7 * charge.steps, delta=1e-5)
    assert 2.97 <= whole <= 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clipped(LIKE, 0.0), "positive, finite clip, got 0.0"),
        (lambda: clipped(LIKE, math.nan), "positive, finite clip, got nan"),
        (lambda: AdaptiveClip(quantile=1.5), r"quantile in \[0, 1\], got 1.5"),
        (lambda: AdaptiveClip(learning_rate=0.0), "positive, finite learning_rate"),
        (lambda: AdaptiveClip(count_deviation=-1.0), "positive, finite count_deviation"),
        (lambda: noisy_mean({}, deviation=-1.0, expected=1.0, source=Secret(), server_round=0), "deviation of the noise"),
        (lambda: noisy_share([], deviation=1.0, expected=0.0, source=Secret(), server_round=0), "positive, finite expected"),
        (lambda: client_guarantee(PrivacyConfig(eps=1.0, delta=0.1), clients=10, rate=1, rounds=1, randomness=""), "1 / clients"),
        (lambda: client_guarantee(PrivacyConfig(eps=1.0), clients=10, rate=0, rounds=1, randomness=""), r"rate in \(0, 1\]"),
        (lambda: local_charge(PrivacyConfig(eps=1.0), samples=9, batch_size=0, epochs=1, rounds=1), "batch size"),
    ],
    ids=["clip", "nan clip", "quantile", "learning rate", "count", "noise", "expected", "delta", "rate", "batch size"],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
