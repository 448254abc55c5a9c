"""APGD and SA-PGD: their schedules, their strength, and an independent reference."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from trustsnn.attacks import APGD, PGD, SAPGD
from trustsnn.attacks.apgd import _checked, _checked_l1, _State, checkpoints, edge_start
from trustsnn.attacks.norms import size
from trustsnn.blocks import frozen, predict
from trustsnn.rng import Draws


@pytest.fixture(scope="module")
def batch(digits_test):
    x, y = digits_test.batch(range(64))
    return torch.from_numpy(x), torch.from_numpy(y)


def correct(model, x, y):
    with frozen(model):
        return predict(model, x).argmax(1) == y


def test_checkpoints_are_the_papers():
    """The paper's 0, 0.22, then gaps of max(gap - 0.03, 0.06), for 100 steps."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99, 105]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_starts_on_the_edge(norm):
    x = torch.full((4, 1, 8, 8), 0.5)
    start = edge_start(x, 0.3, norm, Draws(0, "t", ("a", "b", "c", "d")))
    torch.testing.assert_close(size(start - x, norm), torch.full((4,), 0.3))
    assert not torch.equal(start[0], start[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.12), ("l2", 0.6)])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_robust_accuracy_agrees_with_torchattacks(norm, eps, loss, digits_model, batch):
    """Independent reference: torchattacks 3.5.1, same samples and steps, its own draws: discordant pairs balance (McNemar)."""
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    x, y = batch
    mine = correct(digits_model, APGD(eps=eps, norm=norm, loss=loss, steps=20)(digits_model, x, y), y)
    with frozen(digits_model):
        peer = torchattacks.APGD(digits_model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, steps=20, loss=loss, seed=0)
        peers = predict(digits_model, peer(x, y)).argmax(1) == y
    only_mine, only_peers = int((~mine & peers).sum()), int((mine & ~peers).sum())
    assert 0 < peers.sum() < 60
    p_value = binomtest(only_mine, max(1, only_mine + only_peers)).pvalue  # McNemar's exact test
    assert p_value > 0.005, (int(mine.sum()), int(peers.sum()))


def test_targets_and_restarts_only_help(digits_model, batch):
    x, y = batch
    once, twice = (APGD(eps=0.1, steps=10, restarts=runs)(digits_model, x, y) for runs in (1, 2))
    one, two = correct(digits_model, once, y), correct(digits_model, twice, y)
    assert not (two & ~one).any()
    assert not torch.equal(once[one], twice[one])  # the second run starts elsewhere, and is better for some
    few = correct(digits_model, APGD(eps=0.1, steps=6, targets=1, loss="dlr")(digits_model, x, y), y)
    more = correct(digits_model, APGD(eps=0.1, steps=6, targets=3, loss="dlr")(digits_model, x, y), y)
    assert not (more & ~few).any()
    assert more.sum() < correct(digits_model, x, y).sum()


def test_apgd_l1_is_at_least_as_strong_as_pgd_l1(digits_model, batch):
    x, y = batch
    mine = correct(digits_model, APGD(eps=4.0, norm="l1", steps=50)(digits_model, x, y), y).sum()
    plain = correct(digits_model, PGD(eps=4.0, norm="l1", steps=50)(digits_model, x, y), y).sum()
    assert mine <= plain
    assert mine < correct(digits_model, x, y).sum() - 10


def _state(**given):
    """Four samples of one pixel at 0.6 whose best point is 0.8."""
    rows, pixel = torch.arange(4), torch.full((4, 1), 0.6)
    plain = {
        **{"rows": rows, "x": pixel - 0.1, "y": rows, "goal": rows, "before": pixel - 0.1, "at": pixel, "loss": torch.zeros(4)},
        **{"gradient": pixel, "best_gradient": -pixel, "step": torch.full((4,), 0.4), "best_at": pixel + 0.2},
        **{"best": torch.ones(4), "best_then": torch.zeros(4), "rises": torch.zeros(4)},
        **{"halved": torch.zeros(4, dtype=torch.bool), "share": torch.full((4,), 0.2), "changed_then": torch.ones(4)},
    }
    return _State(**{**plain, **given})


def test_a_step_is_three_quarters_gradient_and_one_quarter_momentum():
    """From 0.5 over 0.6 with a step of 0.04: 0.6 + 0.75 * 0.04 + 0.25 * 0.1; the first step has no momentum."""
    state = _state(step=torch.full((4,), 0.04))
    torch.testing.assert_close(APGD(eps=0.3)._moved(state, 0.75), torch.full((4, 1), 0.655))
    torch.testing.assert_close(APGD(eps=0.3)._moved(state, 1.0), torch.full((4, 1), 0.64))
    torch.testing.assert_close(APGD(eps=0.12)._moved(state, 0.75), torch.full((4, 1), 0.62))


def test_the_step_is_halved_where_it_oscillates_or_stands_still():
    """Of eight steps: six rises are not more than 0.75, seven are; no gain halves unless it was halved just before."""
    state = _state(
        rises=torch.tensor([6, 7, 7, 7]),
        best_then=torch.tensor([0.0, 0.0, 1.0, 1.0]),
        halved=torch.tensor([False, False, False, True]),
    )
    after = _checked(state, 2, 10)
    assert after.halved.tolist() == [True, False, True, False]
    torch.testing.assert_close(after.step, torch.tensor([0.2, 0.4, 0.2, 0.4]))
    torch.testing.assert_close(after.at.squeeze(1), torch.tensor([0.8, 0.6, 0.8, 0.6]))
    assert (after.gradient.squeeze(1) < 0).tolist() == after.halved.tolist()
    assert not after.rises.any()


def test_the_l1_step_shrinks_until_the_best_point_grows_sparser():
    after = _checked_l1(_state(changed_then=torch.tensor([1.0, 2.0, 1.0, 1.0]), step=torch.tensor([0.4, 0.2, 0.06, 0.6])), 0.5)
    torch.testing.assert_close(after.step, torch.tensor([0.4 / 1.5, 0.5, 0.05, 0.4]))
    torch.testing.assert_close(after.at.squeeze(1), torch.tensor([0.6, 0.8, 0.6, 0.6]))
    torch.testing.assert_close(after.share, torch.full((4,), 1 / 1.5))


class Linear(nn.Module):
    """Logits (0, w x): the gradient points the same way everywhere."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x.flatten(1) @ self.weight
        return torch.stack([torch.zeros_like(value), value], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_is_solved(norm):
    """The best point of the ball is known: x + eps sign(w), or x + eps w / |w|."""
    weight = torch.linspace(-1, 1, 12) + 0.05
    x, y = torch.full((3, 1, 3, 4), 0.5), torch.zeros(3, dtype=torch.long)
    best = 0.2 * (weight.sign() if norm == "linf" else weight / weight.norm())
    found = APGD(eps=0.2, norm=norm, steps=30, early_stop=False)(Linear(weight), x, y)
    torch.testing.assert_close(found.flatten(1) - 0.5, best.expand(3, -1), rtol=0, atol=2e-3)


def test_samples_that_are_broken_leave_the_batch(digits_model, batch):
    x, y = batch
    rows = []

    class Counting(nn.Module):
        spec, independent = digits_model.spec, True

        def __init__(self) -> None:
            super().__init__()
            self.inner = digits_model

        def forward(self, x):
            rows.append(len(x))
            return self.inner(x)

    APGD(eps=0.3, steps=10)(Counting(), x, y)
    assert sum(rows) < 6 * len(x)


class Curved(Linear):
    """Logits (0, w cos(20 x)): the gradient changes its sign from step to step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((20 * x).cos())


def test_sapgd_follows_its_equations():
    model = Curved(torch.tensor([4.0, -1.0, 0.5, 0.25]))
    x, y, eps = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long), 0.3
    found = SAPGD(eps=eps, steps=6, early_stop=False)(model, x, y, ["a"])
    at = edge_start(x, eps, "linf", Draws(0, "sapgd", ("a",)).child("restart", 0))
    first = second = torch.zeros_like(x)
    eta = eps
    for _ in range(6):
        leaf = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y), leaf)
        first = 0.5 * first + gradient / gradient.abs().mean()
        second = 0.8 * second + gradient**2 / (gradient**2).mean()
        at = (at + (eta * first / (second.sqrt() + 1e-12)).clamp(-eta, eta)).clamp(0.5 - eps, 0.5 + eps)
        eta /= 2  # six steps are so few that there is a checkpoint after each
    torch.testing.assert_close(found, at, rtol=1e-4, atol=1e-5)


def test_sapgd_is_about_as_strong_as_pgd(digits_model, batch):
    x, y = batch
    mine = correct(digits_model, SAPGD(eps=0.12, steps=30)(digits_model, x, y), y).sum()
    plain = correct(digits_model, PGD(eps=0.12, steps=30)(digits_model, x, y), y).sum()
    assert abs(int(mine - plain)) <= 6
    assert mine < correct(digits_model, x, y).sum() - 10
