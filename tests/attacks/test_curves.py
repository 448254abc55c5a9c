"""Budget curves: known distances, attacks that are not monotone, brute force, bands and paired gains."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from torch import nn

from trustsnn.attacks import (
    FGSM,
    PGD,
    PGD0,
    Attack,
    AttackResult,
    DeepFool,
    Square,
    restarts_curve,
    robust_curve,
    smallest_eps,
    steps_curve,
)
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.bisection import Bisection
from trustsnn.attacks.curves import budget_curve, paired_difference
from trustsnn.attacks.norms import ascend, size
from trustsnn.blocks import frozen, predict
from trustsnn.errors import ConfigError, DataError
from trustsnn.rng import Draws
from trustsnn.statistics import wilson


class Plane(nn.Module):
    """Two logits, the second one linear in x: the distance of a sample of class 0 to the boundary is known in every norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x.flatten(1) - 0.5) @ self.weight - 0.8
        return torch.stack([torch.zeros_like(score), score], 1)


@dataclass(frozen=True, kw_only=True)
class Window(Attack):
    """Moves by `reach` times eps in the best direction on a `Plane`, but only for an eps between `lower` and `upper`."""

    lower: float = 0.0
    upper: float = math.inf
    reach: float = 1.0
    name: ClassVar[str] = "window"
    tried: ClassVar[list[float]] = []

    def _run(self, model, x, y, draws):
        self.tried.append(self.eps)
        length = self.reach * self.eps if self.lower <= self.eps <= self.upper else 0.0
        none = torch.zeros(len(x), dtype=torch.bool)
        return AttackResult(x + ascend(model.weight.detach().expand(len(x), -1).view_as(x), length, self.norm), none, none)


@pytest.fixture(scope="module")
def plane():
    """A model, samples [20, 1, 4, 4] of class 0 near 0.5, and their distances to the boundary."""
    x = 0.5 + 0.03 * torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    model = Plane()
    margins = -model(x)[:, 1].detach().double()
    distances = {"linf": margins / model.weight.detach().norm(p=1), "l2": margins / model.weight.detach().norm()}
    return model, x, torch.zeros(20, dtype=torch.long), distances


@pytest.fixture(scope="module")
def batch(digits_test):
    x, y = digits_test.batch(range(24))
    return torch.from_numpy(x), torch.from_numpy(y)


def correct(model, x, y):
    with frozen(model):
        return predict(model, x).argmax(1) == y


@pytest.mark.parametrize("attack", [FGSM(eps=0), PGD(eps=0, steps=3, random_start=False), Window(eps=0)])
@pytest.mark.parametrize(("norm", "largest"), [("linf", 0.15), ("l2", 0.7)])
def test_the_distance_to_a_plane_is_found_within_a_cell(attack, norm, largest, plane):
    model, x, y, distances = plane
    found = smallest_eps(replace(attack, norm=norm), model, x, y, largest=largest, rounds=5)
    assert found.width == largest / 32
    above = torch.from_numpy(found.eps) - distances[norm]
    assert above.min() > -1e-6
    assert above.max() <= found.width * 1.001
    assert not correct(model, found.adversarial, y).any()
    np.testing.assert_allclose(size(found.adversarial - x, norm).numpy(), found.eps, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("lower", "upper"), [(0.5, 0.56), (0.1, 0.4), (0.3, 0.3), (0.0, 1.0), (0.02, 0.03)])
def test_an_attack_that_succeeds_in_a_window_alone_gives_what_it_found(lower, upper, plane):
    """Of the grid's eps the window holds none, one at which the halving arrives, or some where bisection goes on."""
    model, x, y, distances = plane
    largest, rounds = 0.6, 6
    attack = Window(eps=0, lower=lower * largest, upper=upper * largest)
    found = smallest_eps(attack, model, x, y, largest=largest, rounds=rounds)
    grid = largest * np.arange(1, 2**rounds + 1) / 2**rounds
    works = [grid[(grid >= max(d, attack.lower)) & (grid <= attack.upper)] for d in distances["linf"].tolist()]
    for eps, those in zip(found.eps, works, strict=True):
        assert eps == math.inf or np.isclose(those, eps, rtol=1e-5).any()
        assert eps < math.inf or not np.isin(largest / 2.0 ** np.arange(rounds + 1), those).any()
    assert (correct(model, found.adversarial, y).numpy() == np.isinf(found.eps)).all()
    assert (np.diff(robust_curve(found.eps, largest).value) <= 0).all()


def test_a_window_below_the_largest_eps_is_found_to_its_lower_end(plane):
    model, x, y, distances = plane
    found = smallest_eps(Window(eps=0, lower=0.2, upper=0.5), model, x, y, largest=0.9, rounds=7)
    assert (found.eps >= 0.2).all()
    assert (found.eps <= 0.2 + found.width * 1.001).all()
    assert distances["linf"].max() < 0.2


def test_the_size_of_the_perturbation_counts_where_it_is_below_eps(plane):
    """DeepFool goes just over the boundary, however large the ball: one round does."""
    model, x, y, distances = plane
    found = smallest_eps(DeepFool(eps=0, steps=5), model, x, y, largest=0.6, rounds=1)
    np.testing.assert_allclose(found.eps, 1.02 * distances["linf"].numpy(), rtol=1e-3)
    half = smallest_eps(Window(eps=0, reach=0.5), model, x, y, largest=0.6, rounds=6)
    assert (half.eps >= distances["linf"].numpy() - 1e-6).all()
    assert (half.eps <= 2 * distances["linf"].numpy() + half.width).all()
    np.testing.assert_allclose(size(half.adversarial - x, "linf").numpy(), half.eps, rtol=1e-5)


def test_bisection_goes_on_below_the_perturbation_that_was_found(plane):
    model, x, y, _ = plane
    Window.tried.clear()
    smallest_eps(Window(eps=0, reach=0.5), model, x[:1], y[:1], largest=0.6, rounds=6)
    assert Window.tried[:2] == pytest.approx([0.6, 0.15], abs=0.6 / 64)


def test_what_leaves_the_ball_breaks_nothing(plane):
    model, x, y, _ = plane
    found = smallest_eps(Window(eps=0, reach=1.01), model, x, y, largest=0.3, rounds=3)
    assert np.isinf(found.eps).all()
    assert torch.equal(found.adversarial, x)


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1) + 0 * x.flatten(1)[:, :1]


def test_a_constant_model_is_never_broken_and_a_wrong_one_always_is(plane):
    _, x, y, _ = plane
    y = y.clone()
    y[:8] = 1
    found = smallest_eps(PGD(eps=0, steps=2), Constant(), x, y, largest=1.0, rounds=3)
    assert found.eps.tolist() == [0.0] * 8 + [math.inf] * 12
    assert torch.equal(found.adversarial, x)
    curve = robust_curve(found.eps, 1.0, [0.0, 0.5, 1.0])
    assert curve.robust.tolist() == [12, 12, 12]
    assert curve.median == (math.inf, 0.0, math.inf)


@pytest.mark.parametrize(("norm", "largest"), [("linf", 0.3), ("l2", 2.0)])
def test_bisection_agrees_with_brute_force(norm, largest, digits_model, batch):
    """Every eps of the grid is tried. The attack is not quite monotone, so bisection may end above the very first that works."""
    x, y = batch
    attack, cells = PGD(eps=0, norm=norm, steps=4), 16
    found = smallest_eps(attack, digits_model, x, y, largest=largest, rounds=4)
    reference = torch.where(correct(digits_model, x, y), math.inf, 0.0).double()
    for cell in range(cells, 0, -1):
        adversarial = replace(attack, eps=largest * cell / cells)(digits_model, x, y)
        fooled = ~correct(digits_model, adversarial, y) & (reference > 0)
        reference[fooled] = torch.minimum(reference, size((adversarial - x).double(), norm))[fooled]
    assert (found.eps >= reference.numpy() - 1e-6).all()
    finite = np.isfinite(found.eps)
    assert finite.sum() >= 20
    assert (found.eps - reference.numpy() <= found.width + 1e-6)[finite].mean() >= 0.9
    assert not correct(digits_model, found.adversarial, y)[torch.from_numpy(finite)].any()


def test_an_l0_grid_counts_pixels(digits_model, batch):
    found = smallest_eps(PGD0(eps=0, steps=4), digits_model, *batch, largest=16, rounds=4)
    finite = found.eps[np.isfinite(found.eps)]
    assert (finite == finite.round()).all()
    assert finite.max() > 1


@pytest.fixture(params=["digits_model", "poisson_model"])
def either_model(request):
    return request.getfixturevalue(request.param)


def found_by_bisection(*given):
    found = smallest_eps(PGD(eps=0, steps=3, eot=2), *given, largest=0.3, rounds=3)
    return np.concatenate([found.eps[:, None], found.adversarial.flatten(1).numpy()], 1)


@pytest.mark.parametrize(
    "search",
    [
        found_by_bisection,
        lambda *given: steps_curve(PGD(eps=0.1, eot=2), *given, steps=(1, 3)).robust.T,
        lambda *given: restarts_curve(PGD(eps=0.1, steps=2, eot=2), *given, restarts=(1, 3)).robust.T,
    ],
    ids=["eps", "steps", "restarts"],
)
def test_batch_and_order_change_nothing(search, either_model, batch):
    x, y = batch
    ids = [f"s{i}" for i in range(len(x))]
    whole = search(either_model, x, y, ids)
    parts = [search(either_model, x[i : i + 9], y[i : i + 9], ids[i : i + 9]) for i in range(0, len(x), 9)]
    assert np.array_equal(np.concatenate(parts), whole)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert np.array_equal(search(either_model, x[order], y[order], [ids[i] for i in order]), whole[order])


def test_the_ids_key_the_draws(digits_model, batch):
    ones, others = (
        smallest_eps(PGD(eps=0, steps=2), digits_model, *batch, [f"{name}{i}" for i in range(24)], largest=0.3, rounds=3)
        for name in "ab"
    )
    assert ones.ids[:2] == ("a0", "a1")
    assert not np.array_equal(ones.eps, others.eps)


def test_a_stochastic_model_is_judged_by_one_set_of_draws(poisson_model, batch):
    """What moves nothing breaks nothing, however often it is tried; a sample that falls, falls under the same draws again."""
    x, y = batch
    still = smallest_eps(FGSM(eps=0, eot=3), poisson_model, x, y, largest=1e-9, rounds=8)
    assert set(still.eps.tolist()) <= {0.0, math.inf}
    found = smallest_eps(PGD(eps=0, steps=3, eot=3), poisson_model, x, y, still.ids, largest=0.4, rounds=4)
    assert np.array_equal(found.eps == 0, still.eps == 0)
    assert np.median(found.eps) < 0.4
    draws = Draws(0, "judge", found.ids)
    with frozen(poisson_model):
        logits = [predict(poisson_model, found.adversarial, draws.child("eot", k)) for k in range(3)]
    assert np.array_equal((torch.stack(logits).mean(0).argmax(1) != y).numpy(), np.isfinite(found.eps))


@dataclass(frozen=True, kw_only=True)
class Counted(PGD):
    """PGD that counts the samples it is given."""

    given: ClassVar[list[int]] = []

    def _run(self, model, x, y, draws):
        self.given.append(len(x))
        return super()._run(model, x, y, draws)


def test_each_number_of_steps_is_a_run_of_its_own(digits_model, batch):
    x, y = batch
    steps, clean = (1, 2, 8), correct(digits_model, x, y)
    Counted.given.clear()
    curve = steps_curve(Counted(eps=0.1), digits_model, x, y, steps=steps)
    assert Counted.given == [int(clean.sum())] * 3
    runs = [clean, *(clean & correct(digits_model, PGD(eps=0.1, steps=k)(digits_model, x, y), y) for k in steps)]
    assert curve.own.at.tolist() == [0, 1, 2, 8]
    assert np.array_equal(curve.robust, torch.stack(runs).numpy())
    assert curve.own.robust.tolist() == [int(run.sum()) for run in runs]
    assert curve.own.robust[-1] < curve.own.robust[1]
    assert [(gain.fewer, gain.more) for gain in curve.gains] == [(0, 1), (1, 2), (2, 8)]


def test_restarts_give_what_each_number_of_them_gives_on_all_samples(digits_model, batch):
    x, y = batch
    attack, clean = Counted(eps=0.14, steps=1), correct(digits_model, x, y)
    Counted.given.clear()
    curve = restarts_curve(attack, digits_model, x, y, restarts=(1, 2, 6))
    assert Counted.given == curve.own.robust[:-1].tolist()  # survivors alone
    runs = [clean, *(correct(digits_model, replace(attack, restarts=k)(digits_model, x, y), y) for k in (1, 2, 6))]
    assert np.array_equal(curve.robust, torch.stack(runs).numpy())
    assert curve.own.robust[-1] < curve.own.robust[1]
    assert np.array_equal(curve.own.value, curve.worst.value)


def test_the_model_is_left_as_it_was(digits_model, batch):
    model = copy.deepcopy(digits_model).train()
    smallest_eps(FGSM(eps=0), model, *batch, largest=0.1, rounds=2)
    steps_curve(PGD(eps=0.1), model, *batch, steps=(1,))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, digits_model.state_dict()[name]) for name, value in model.state_dict().items())


sizes = st.lists(st.one_of(st.floats(0, 1), st.just(math.inf), st.just(0.0)), min_size=1, max_size=40)


@given(sizes, st.lists(st.floats(0, 1), min_size=1, max_size=5, unique=True).map(sorted))
def test_the_curve_is_the_share_of_samples_above_each_eps(smallest, at):
    curve = robust_curve(np.array(smallest), 1.0, at)
    assert curve.robust.tolist() == [sum(each > eps for each in smallest) for eps in at]
    full = robust_curve(np.array(smallest), 1.0)
    assert set(full.at.tolist()) == {0.0, 1.0, *(each for each in smallest if each < math.inf)}
    assert (np.diff(full.robust) <= 0).all()
    for curve_ in (curve, full):
        assert np.array_equal(curve_.value, curve_.robust / len(smallest))
        assert [(low, high) for low, high in zip(curve_.low, curve_.high, strict=True)] == [
            wilson(int(each), len(smallest)) for each in curve_.robust
        ]
    assert full.median.low <= full.median.value <= full.median.high
    assert sum(each <= full.median.value for each in smallest) >= len(smallest) / 2
    assert sum(each < full.median.value for each in smallest) < len(smallest) / 2


@pytest.mark.parametrize(("count", "ranks"), [(5, None), (6, (1, 6)), (20, (6, 15)), (101, (41, 61))])
def test_the_interval_of_the_median_is_between_order_statistics(count, ranks):
    """It misses the median where fewer than `ranks[0]` samples lie on one side of it: 95 % or more, and no narrower one does."""
    median = robust_curve(np.arange(1, count + 1) / count, 1.0).median
    assert (median.low, median.high) == ((0, math.inf) if ranks is None else (ranks[0] / count, ranks[1] / count))
    if ranks is not None:
        assert 2 * binom.cdf(ranks[0] - 1, count, 0.5) <= 0.05 < 2 * binom.cdf(ranks[0], count, 0.5)


@pytest.mark.parametrize(
    ("table", "interval"),
    [((14, 5, 0, 22), (0.011, 0.226)), ((36, 12, 2, 0), (0.0569, 0.3404)), ((1, 1, 7, 12), (-0.507, -0.026))],
)
def test_the_interval_of_a_paired_difference_is_newcombes(table, interval):
    """Altman 2000, Statistics with Confidence, table 6.2; Newcombe 1998, table II; Fagerland 2014, BMC Med Res Methodol 14."""
    value, low, high = paired_difference(*table)
    assert value == (table[1] - table[2]) / sum(table)
    assert (low, high) == pytest.approx(interval, abs=6e-4)


def test_gains_are_paired_and_the_worst_case_is_cumulative():
    robust = np.ones((3, 20), dtype=np.bool_)
    robust[1, :8] = False
    robust[2, 6:14] = False  # the last run misses six that the one before broke, and breaks six others
    curve = budget_curve([0, 1, 5], robust)
    assert curve.own.robust.tolist() == [20, 12, 12]
    assert curve.worst.robust.tolist() == [20, 12, 6]
    first, second = curve.gains
    assert (first.broken_by_more_only, first.broken_by_fewer_only, first.count, first.value) == (8, 0, 20, 0.4)
    assert first.p_value == pytest.approx(2 * 0.5**8)
    assert (second.broken_by_more_only, second.broken_by_fewer_only, second.value, second.p_value) == (6, 6, 0.0, 1.0)
    assert first.low > 0 > second.low == -second.high


@pytest.mark.parametrize("largest", [0.0, -1.0, math.inf, math.nan])
def test_the_largest_eps_is_positive_and_finite(largest, plane):
    with pytest.raises(ConfigError, match="largest"):
        smallest_eps(FGSM(eps=0), *plane[:3], largest=largest)


@pytest.mark.parametrize("rounds", [0, 21, 2.0, True])
def test_rounds_are_a_whole_number(rounds, plane):
    with pytest.raises(ConfigError, match="rounds"):
        smallest_eps(FGSM(eps=0), *plane[:3], largest=0.1, rounds=rounds)


@pytest.mark.parametrize("steps", [(), (2, 1), (1, 1), (0, 1), (1.5,)])
def test_steps_are_ascending_whole_numbers(steps, plane):
    with pytest.raises(ConfigError, match="steps"):
        steps_curve(PGD(eps=0.1), *plane[:3], steps=steps)


def test_wrong_samples_ids_and_attacks_are_refused(plane):
    model, x, y, _ = plane
    with pytest.raises(ConfigError, match="a setting steps, got square"):
        steps_curve(Square(eps=0.1), model, x, y)
    with pytest.raises(ConfigError, match="a setting restarts, got fgsm"):
        restarts_curve(FGSM(eps=0.1), model, x, y)
    with pytest.raises(ConfigError, match="Expected 20 ids"):
        smallest_eps(FGSM(eps=0), model, x, y, ["a"], largest=0.1)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        smallest_eps(FGSM(eps=0), model, x + 1, y, largest=0.1)


@pytest.mark.parametrize("smallest", [[], [[0.1]], [-0.1], [math.nan]])
def test_sizes_are_numbers_of_at_least_zero(smallest):
    with pytest.raises(DataError, match="smallest eps"):
        robust_curve(np.array(smallest), 1.0)


@pytest.mark.parametrize("at", [[], [0.2, 0.1], [0.1, 0.1], [-0.1], [0.1, 1.1], [math.nan], [[0.1]]])
def test_the_curve_is_read_where_was_searched(at):
    with pytest.raises(ConfigError, match="up to which was searched"):
        robust_curve(np.array([0.1, 0.2]), 1.0, at)


@pytest.mark.parametrize("largest", [0.1, math.inf])
def test_no_sample_is_broken_above_the_largest_eps(largest):
    with pytest.raises(ConfigError, match="largest"):
        robust_curve(np.array([0.1, 0.2]), largest)


@pytest.mark.parametrize("robust", [np.ones((2, 0), dtype=np.bool_), np.ones((3, 4), dtype=np.bool_), np.ones((2, 4))])
def test_outcomes_are_one_row_for_each_budget(robust):
    with pytest.raises(DataError, match="robust as bool"):
        budget_curve([0, 1], robust)


def test_the_search_as_an_attack_gives_the_smallest_perturbations(digits_model, batch):
    x, y = (each[:12] for each in batch)
    ids = [f"s{row}" for row in range(len(x))]
    attack = Bisection(eps=0.15, rounds=3)
    found = smallest_eps(SNNAutoAttack(eps=0.15, profile="quick"), digits_model, x, y, ids, largest=0.15, rounds=3)
    result = attack.run(digits_model, x, y, ids)
    assert torch.equal(result.adversarial, found.adversarial)
    assert len(np.unique(found.eps[np.isfinite(found.eps)].round(3))) > 3
    assert attack.cost(digits_model)[0] == 4 * SNNAutoAttack(eps=0.15, profile="quick").cost(digits_model)[0]
    assert attack.describe()["rounds"] == 3
    assert torch.equal(Bisection(eps=0.0)(digits_model, x, y), x)
    for wrong, message in (({"rounds": 21}, "at most 20"), ({"rounds": 0}, "at least 1"), ({"loss": "dlr"}, "brings its own")):
        with pytest.raises(ConfigError, match=message):
            Bisection(eps=0.1, **wrong)
