"""Certificates from votes: exact binomial bounds, randomised smoothing, and the L1 radius of rate coding."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from trustsnn.blocks import frozen, predict
from trustsnn.defenses.certify import Rate, Smoothing
from trustsnn.defenses.certify.binomial import lower, upper
from trustsnn.defenses.certify.rate import radius
from trustsnn.defenses.certify.votes import votes
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.models.spec import ModelSpec
from trustsnn.rng import stream


@pytest.mark.parametrize(("successes", "count"), [(0, 20), (1, 20), (13, 20), (20, 20), (990, 1000)])
def test_bounds_have_exactly_the_tail_they_claim(successes, count):
    low, high = lower(successes, count, 0.01), upper(successes, count, 0.01)
    assert low <= successes / count <= high
    if successes:
        assert binom.sf(successes - 1, count, low) == pytest.approx(0.01)
    if successes < count:
        assert binom.cdf(successes, count, high) == pytest.approx(0.01)


class Halfspace(nn.Module):
    """Class 0 where the first pixel is at least `edge`: the smoothed classifier is known in closed form."""

    def __init__(self, edge, stochastic=False):
        super().__init__()
        self.edge = edge
        self.spec = ModelSpec("image", (1, 2, 2), 3, 1, "direct", "membrane", stochastic)

    def forward(self, x, generator=None):
        edge = self.edge + (0.02 * (generator.uniform(()) - 0.5) if generator is not None else 0.0)
        first = x[:, 0, 0, 0] - edge
        return torch.stack([first, -first, torch.full_like(first, -1.0)], 1)


@pytest.mark.parametrize("stochastic", [False, True])
def test_smoothing_finds_the_distance_to_a_halfspace_and_never_more(stochastic):
    method = Smoothing(sigma=0.1, draws=4000, selection=50)
    x = torch.full((1, 2, 2), 0.6)
    for edge, label in ((0.45, 0), (0.7, 1)):
        entry = method.entry(Halfspace(edge, stochastic), x, "a")
        assert entry["prediction"] == label
        assert 0.8 * abs(0.6 - edge) < entry["radius"] < abs(0.6 - edge)


@pytest.mark.parametrize("method", [Smoothing(draws=60, selection=20), Rate(draws=60, selection=20)])
def test_the_class_is_chosen_by_other_draws_than_those_that_bound_it(method, monkeypatch):
    asked = []

    def watched(model, x, sample, count, *, task, **settings):
        asked.append((count, task))
        return np.array([count, 0, 0])

    monkeypatch.setattr(f"trustsnn.defenses.certify.{method.name}.votes", watched)
    assert method.entry(Halfspace(0.5), torch.zeros(1, 2, 2), "a")["prediction"] == 0
    assert [count for count, _ in asked] == [20, 60]
    assert len({task for _, task in asked}) == 2


def test_smoothing_abstains_on_the_edge():
    entry = Smoothing(sigma=0.1, draws=400).entry(Halfspace(0.6), torch.full((1, 2, 2), 0.6), "a")
    assert entry["prediction"] is None
    assert entry["radius"] is None


def test_certificates_are_wrong_in_no_more_than_alpha_of_cases():
    """At a true probability of 0.9 the bound is above it in at most alpha of 2,000 repetitions, and not in far fewer."""
    draws = stream(0, "coverage").binomial(100, 0.9, size=2000)
    wrong = sum(lower(int(k), 100, 0.05) > 0.9 for k in draws)
    assert binom.cdf(wrong, 2000, 0.05) < 0.9999
    assert wrong > 20


def test_noise_is_clipped_in_the_base_classifier_and_keyed_by_the_sample():
    seen = []

    class Watch(Halfspace):
        def forward(self, x, generator=None):
            seen.append((float(x.min()), float(x.max()), float(x.std())))
            return super().forward(x)

    x = torch.full((1, 2, 2), 0.5)
    settings = {"seed": 0, "task": "t", "sigma": 1.0}
    one = votes(Watch(0.45), x, "a", 300, **settings)
    assert min(low for low, _, _ in seen) == 0
    assert max(high for _, high, _ in seen) == 1
    assert seen[0][2] > 0.3
    assert one.sum() == 300
    assert (votes(Halfspace(0.45), x, "a", 300, **settings) == one).all()
    others = [
        votes(Halfspace(0.45), x, name, 300, **{**settings, **new})
        for name, new in (("b", {}), ("a", {"seed": 1}), ("a", {"task": "u"}))
    ]
    assert all((other != one).any() for other in others)


def frames(pixels, steps):
    """All spike trains [2^(T d), T, d]."""
    return np.array(list(product((0, 1), repeat=steps * pixels))).reshape(-1, steps, pixels)


def probabilities(x, trains):
    return np.prod(np.where(trains == 1, x, 1 - x), axis=(1, 2))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_distance_of_rate_coded_inputs_by_enumeration(steps):
    trains = frames(3, steps)
    draws = stream(steps, "pairs")
    for _ in range(200):
        x = draws.choice([0.0, 1.0, *draws.random(3)], 3)
        moved = np.clip(x + draws.normal(size=3) * draws.choice([0.02, 0.2, 0.6]) * (draws.random(3) < 0.6), 0, 1)
        exact = abs(probabilities(x, trains) - probabilities(moved, trains)).sum() / 2
        d = abs(moved - x)
        coupled = 1 - np.prod(1 - d) ** steps
        assert exact <= coupled + 1e-12
        if d.sum() < 1:
            assert coupled <= 1 - (1 - d.sum()) ** steps + 1e-12 <= steps * d.sum() + 2e-12


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_distance_at_the_radius_is_attained_at_a_dark_pixel(steps):
    low, high = 0.8, 0.1
    r = radius(low, high, steps)
    trains = frames(1, steps)
    exact = abs(probabilities(np.array([0.0]), trains) - probabilities(np.array([r]), trains)).sum() / 2
    assert exact == pytest.approx((low - high) / 2)
    assert r >= (low - high) / (2 * steps)


def test_no_input_within_the_exact_radius_changes_a_network_by_enumeration():
    """Two pixels and three steps: the network runs on all 64 spike trains, so every probability is known."""
    coded = build("mlp", input_shape=(2, 1, 1), classes=3, channels=0.03, norm="none", steps=3, encoder="poisson", seed=13)
    by_frame = build(
        "mlp", input_shape=(3, 2, 1, 1), classes=3, channels=0.03, norm="none", steps=3, domain="events-binary", seed=9
    )
    with torch.no_grad():
        for each in coded.parameters():
            each.mul_(3)
    by_frame.load_state_dict(coded.state_dict())
    trains = frames(2, 3)
    with frozen(by_frame):
        said = predict(by_frame, torch.from_numpy(trains).float().view(-1, 3, 2, 1, 1)).argmax(1).numpy()
    assert len(set(said.tolist())) > 1
    certified = 0
    for x in product((0.0, 0.1, 0.5, 0.9), repeat=2):
        shares = np.bincount(said, probabilities(np.array(x), trains), minlength=3)
        top, second = np.sort(shares)[::-1][:2]
        r = radius(top, second, 3)
        for angle in np.linspace(0, 4, 41):
            step = np.array([1 - abs(angle - 2), 1 - abs((angle + 1) % 4 - 2)])
            moved = np.clip(np.array(x) + 0.999 * r * step / abs(step).sum(), 0, 1)
            assert np.bincount(said, probabilities(moved, trains), minlength=3).argmax() == shares.argmax()
        certified += r > 0.02
    assert certified > 3


def test_rate_gives_counts_bounds_and_both_radii(coded_model, digits_test):
    x = torch.from_numpy(digits_test.batch([0])[0])[0]
    method = Rate(draws=300, selection=20)
    with frozen(coded_model):
        entry = method.entry(coded_model, x, digits_test.ids[0])
        assert method.entry(coded_model, x, digits_test.ids[0]) == entry
    counts = entry["counts"]
    assert sum(counts) == 300
    assert entry["prediction"] == int(np.argmax(counts))
    assert entry["low"] == lower(max(counts), 300, 0.0005)
    runner_up = sorted(counts)[-2]
    assert entry["high"] == min(1 - entry["low"], upper(runner_up, 300, 0.001 / 18))
    assert entry["radius"] > entry["union_radius"] == (entry["low"] - entry["high"]) / 4 > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Smoothing(sigma=0.0), "positive sigma"),
        (lambda: Smoothing(alpha=0.7), "alpha in"),
        (lambda: Rate(draws=0), "draws of at least 1"),
        (lambda: Rate().check(build("mlp", input_shape=(1, 2, 2), classes=2)), "encoder 'poisson'"),
        (lambda: Smoothing().check(build("mlp", input_shape=(4, 2, 2, 2), classes=2, domain="events-binary")), "images"),
    ],
)
def test_bad_settings_and_models_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
