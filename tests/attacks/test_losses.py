"""Losses: their formulae, and what they say where logits tie as spike counts do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.attacks.losses import (
    LOSSES,
    cross_entropy,
    cross_entropy_scaled,
    difference,
    dlr,
    margin,
    margin_ties,
    raised,
    targeted_dlr,
)
from trustsnn.errors import ConfigError

COUNTS = st.lists(st.integers(0, 4), min_size=5, max_size=5)  # logits of a network with T = 4: spike counts


def _gradient(loss, logits, *classes):
    leaf = logits.double().clone().requires_grad_()
    loss(leaf, *classes).sum().backward()
    return leaf.grad


def test_dlr_is_the_papers_where_nothing_ties():
    z = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(200) % 7
    target = (y + 1 + torch.arange(200) % 6) % 7
    for row, (label, aim) in enumerate(zip(y.tolist(), target.tolist(), strict=True)):
        a = sorted(z[row].tolist(), reverse=True)
        other = max(v for k, v in enumerate(z[row].tolist()) if k != label)
        assert dlr(z[row : row + 1], y[row : row + 1]).item() == pytest.approx(-(z[row, label].item() - other) / (a[0] - a[2]))
        expected = -(z[row, label] - z[row, aim]).item() / (a[0] - (a[2] + a[3]) / 2)
        assert targeted_dlr(z[row : row + 1], y[row : row + 1], target[row : row + 1]).item() == pytest.approx(expected)


@settings(deadline=None, max_examples=200)
@given(counts=COUNTS, label=st.integers(0, 4), scale=st.sampled_from([1e-6, 0.25, 1.0, 1e4]))
def test_dlr_of_tied_counts_is_finite_with_its_sign_and_a_gradient(counts, label, scale):
    z, y = torch.tensor([counts]) * scale, torch.tensor([label])
    value, gradient = dlr(z, y), _gradient(dlr, z, y)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert value.sign() == margin(z, y).sign()
    assert abs(value.item()) <= 1001
    if margin(z, y) == 0:  # a tie at the top: a step down the label's logit must still look like progress
        assert gradient[0, label] < 0
    target = torch.tensor([(label + 1) % 5])
    value = targeted_dlr(z, y, target)
    assert torch.isfinite(value).all()
    assert torch.isfinite(_gradient(targeted_dlr, z, y, target)).all()
    assert value.sign() == difference(z, torch.stack([y, target], 1)).sign()


@settings(deadline=None, max_examples=200)
@given(counts=COUNTS, label=st.integers(0, 4))
def test_margin_ties_is_positive_exactly_where_argmax_is_wrong(counts, label):
    z, y = torch.tensor([counts], dtype=torch.float32), torch.tensor([label])
    value = margin_ties(z, y)
    assert (value > 0) == (z.argmax(1) != y)
    assert (value < 0) == (z.argmax(1) == y)
    assert abs(value - margin(z, y)) <= 4e-3 + 1e-5
    gradient = _gradient(margin_ties, z, y)
    assert torch.isfinite(gradient).all()
    assert gradient[0, label] < 0


def test_margin_ties_sees_progress_where_the_margin_is_flat():
    z = torch.tensor(
        [[4.0, 3.0, 0.0, 0.0], [4.0, 3.0, 2.0, 0.0], [4.0, 3.0, 3.0, 3.0], [4.0, 4.0, 0.0, 0.0], [4.0, 4.0, 4.0, 4.0]]
    )
    y = torch.zeros(5, dtype=torch.long)
    assert margin(z, y).tolist() == [-1, -1, -1, 0, 0]
    assert margin_ties(z, y).diff().gt(0).all()
    assert margin_ties(z[3:4], torch.tensor([1])) > 0  # the same tie, decided against the label


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_targeted_loss_rises_with_the_targets_logit(name):
    z = torch.tensor([[3.0, 1.0, 0.5, 0.2, 0.1]])
    goal = torch.tensor([[0, 2]])
    gradient = _gradient(lambda logits, pair: raised(name, logits, pair), z, goal)
    assert gradient[0, 2] > 0
    assert gradient[0, 0] < 0
    assert raised("ce", z, goal) == -cross_entropy(z, torch.tensor([2]))


def test_the_scaled_cross_entropy_does_not_depend_on_the_scale_of_wide_logits():
    z, y = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(6)
    assert torch.equal(cross_entropy_scaled(z, y), cross_entropy(z, y))
    wide = z * (25 / (z.amax(1) - z.amin(1)))[:, None]
    torch.testing.assert_close(cross_entropy_scaled(1e6 * wide, y), cross_entropy_scaled(wide, y))
    assert (_gradient(cross_entropy_scaled, 1e6 * wide, y).abs().amax(1) > 0).all()
    assert (_gradient(cross_entropy, 1e6 * wide, y).abs().amax(1) == 0).any()


def test_dlr_needs_enough_classes():
    with pytest.raises(ConfigError, match="at least 3 classes, got 2"):
        dlr(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ConfigError, match="at least 4 classes, got 3"):
        targeted_dlr(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long))
