"""Square: its schedule and patches, its strength, its count of queries, and an independent reference."""

from __future__ import annotations

import pytest
import torch

from trustsnn.attacks import PGD, Square
from trustsnn.attacks.square import _bump, area_share
from trustsnn.blocks import frozen, predict
from trustsnn.errors import ConfigError


@pytest.fixture(scope="module")
def batch(digits_test):
    x, y = digits_test.batch(range(32))
    return torch.from_numpy(x), torch.from_numpy(y)


def correct(model, x, y):
    with frozen(model):
        return predict(model, x).argmax(1) == y


def test_the_area_shrinks_on_the_papers_schedule():
    expected = [(0, 0.8), (10, 0.8), (11, 0.4), (51, 0.2), (501, 0.05), (8001, 0.8 / 512)]
    assert [area_share(query, 10_000, 0.8) for query, _ in expected] == pytest.approx([share for _, share in expected])
    assert area_share(6, 5000, 0.8) == 0.4


def test_the_bump_is_the_papers():
    """Equation 2 for a side of 3, by hand: 1 x 3 above, 2 x 3 below with the other sign, each of L2 norm 1 before the whole is."""
    above = torch.tensor([[1 / 4, 1 + 1 / 4, 1 / 4]])
    below = torch.tensor([[1 / 4, 1 / 4, 1 / 4], [1 / 4, 1 + 1 / 4, 1 / 4]])
    expected = torch.cat([above / above.norm(), -below / below.norm()])
    torch.testing.assert_close(_bump(3), expected / expected.norm())
    torch.testing.assert_close(_bump(7).norm(), torch.tensor(1.0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 0.9)])
def test_it_is_at_least_as_strong_as_torchattacks(norm, eps, digits_model, batch):
    """torchattacks 3.5.1 draws one patch for the whole batch and never reaches the last row and column, which on 8 x 8 counts."""
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    x, y = batch
    mine = correct(digits_model, Square(eps=eps, norm=norm, queries=80)(digits_model, x, y), y).sum()
    with frozen(digits_model):
        peer = torchattacks.Square(digits_model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, n_queries=80, seed=0)
        peers = (predict(digits_model, peer(x, y)).argmax(1) == y).sum()
    assert mine <= peers + 3
    assert mine < 26


def test_queries_are_counted_and_broken_samples_ask_no_more(digits_model, batch):
    x, y = batch
    result = Square(eps=0.25, queries=30).run(digits_model, x, y)
    robust = correct(digits_model, result.adversarial, y)
    assert (result.queries[robust] == 31).all()  # the clean one too
    assert (result.queries[~robust] <= 31).all()
    assert (result.queries[~robust] < 31).any()
    assert PGD(eps=0.1, steps=1).run(digits_model, x, y).queries is None


def test_more_queries_never_help_the_model(digits_model, batch):
    """The draws depend on how many queries there are, so that holds per sample only for restarts."""
    x, y = batch
    one = correct(digits_model, Square(eps=0.2, queries=20)(digits_model, x, y), y)
    two = correct(digits_model, Square(eps=0.2, queries=20, restarts=2)(digits_model, x, y), y)
    assert not (two & ~one).any()


class Counts(torch.nn.Module):
    """A model whose logits are whole numbers: the margin has few levels."""

    def __init__(self, model: torch.nn.Module, levels: float) -> None:
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.model(x) * self.levels).round()


def test_the_tie_aware_loss_goes_on_where_the_margin_is_flat(digits_model, batch):
    x, y = batch
    model = Counts(digits_model, 0.3)
    left = {}
    for loss in ("margin-ties", "margin"):
        attacks = [Square(eps=0.2, queries=150, loss=loss, seed=seed) for seed in (0, 1)]
        left[loss] = sum(int(correct(model, attack(model, x, y), y).sum()) for attack in attacks)
    assert left["margin-ties"] < left["margin"]


def test_it_needs_images():
    with pytest.raises(ConfigError, match=r"images \[B, C, H, W\]"):
        Square(eps=0.1)(torch.nn.Linear(4, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
