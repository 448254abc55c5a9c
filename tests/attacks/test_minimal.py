"""DeepFool, CW, MI-FGSM, transfer, and the L1 and L0 balls: known answers and independent references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trustsnn.attacks import CW, FGSM, MIFGSM, PGD, PGD0, RFGSM, DeepFool, Transfer
from trustsnn.attacks.estimators import estimator
from trustsnn.attacks.norms import ascend, project, random_start, size, sparse_sign
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import frozen, predict
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


@pytest.fixture(scope="module")
def batch(digits_test):
    x, y = digits_test.batch(range(32))
    return torch.from_numpy(x), torch.from_numpy(y)


def correct(model, x, y):
    with frozen(model):
        return predict(model, x).argmax(1) == y


class Affine(nn.Module):
    """Three logits, linear in x: the distance to each boundary is known."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(9, 3, generator=generator))
        self.bias = nn.Parameter(torch.tensor([2.0, 0.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) - 0.5) @ self.weight + self.bias


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_finds_the_nearest_boundary_of_a_linear_model(norm):
    model, x = Affine(), torch.full((1, 1, 3, 3), 0.5)
    slopes = [(model.weight[:, k] - model.weight[:, 0]).detach() for k in (1, 2)]
    nearest = min(2.0 / slope.norm(p=1 if norm == "linf" else 2) for slope in slopes)
    found = DeepFool(eps=1.0 if norm == "linf" else 3.0, norm=norm)(model, x, torch.tensor([0]))
    torch.testing.assert_close(size(found - x, norm)[0], 1.02 * nearest, rtol=1e-3, atol=0)
    assert model(found).argmax(1) != 0
    short = DeepFool(eps=float(nearest) / 2, norm=norm)(model, x, torch.tensor([0]))
    torch.testing.assert_close(size(short - x, norm)[0], nearest / 2)


@pytest.mark.parametrize("first", [0.01, 1.0])
def test_cw_finds_the_nearest_boundary_of_a_linear_model(first):
    model, x = Affine(), torch.full((1, 1, 3, 3), 0.5)
    nearest = min(2.0 / (model.weight[:, k] - model.weight[:, 0]).norm().item() for k in (1, 2))
    found = CW(eps=3.0, steps=150, searches=5, first_c=first)(model, x, torch.tensor([0]))
    assert model(found).argmax(1) != 0
    assert nearest <= size(found - x, "l2").item() <= 1.05 * nearest
    confident = CW(eps=3.0, steps=150, searches=4, first_c=first, confidence=0.5)(model, x, torch.tensor([0]))
    assert (model(confident)[:, 1:].amax() - model(confident)[0, 0]).item() >= 0.5 - 1e-5


@pytest.mark.parametrize("kind", [DeepFool, CW])
def test_a_loss_that_would_have_no_effect_is_refused(kind):
    with pytest.raises(ConfigError, match="has a loss of its own, got 'dlr'"):
        kind(eps=0.1, norm="l2", loss="dlr")


def test_deepfool_and_cw_find_smaller_perturbations_than_pgd_uses(digits_model, batch):
    x, y = batch[0][:12], batch[1][:12]
    for attack in (DeepFool(eps=5.0, norm="l2", steps=20), CW(eps=5.0, steps=40, searches=2, learning_rate=0.03)):
        found = attack(digits_model, x, y)
        fooled = ~correct(digits_model, found, y)
        assert fooled.float().mean() > 0.9
        assert size(found - x, "l2")[fooled].median() < 1.5


@pytest.mark.filterwarnings("ignore")
def test_mi_fgsm_agrees_with_torchattacks(digits_model, batch):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    x, y = batch
    with frozen(digits_model):
        peer = torchattacks.MIFGSM(digits_model, eps=0.1, alpha=0.02, steps=5, decay=0.9)(x, y)
        mine = MIFGSM(eps=0.1, steps=5, decay=0.9)(digits_model, x, y)
        torch.testing.assert_close(mine, peer, rtol=0, atol=1e-6)


def test_one_step_of_mi_fgsm_and_r_fgsm_without_its_random_share_are_fgsm(digits_model, batch):
    x, y = batch
    for norm, eps in (("linf", 0.1), ("l2", 0.8)):
        expected = FGSM(eps=eps, norm=norm)(digits_model, x, y)
        torch.testing.assert_close(MIFGSM(eps=eps, norm=norm, steps=1)(digits_model, x, y), expected)
        assert torch.equal(RFGSM(eps=eps, norm=norm, share=0.0)(digits_model, x, y), expected)
        assert not torch.equal(RFGSM(eps=eps, norm=norm)(digits_model, x, y), expected)


def test_transfer_is_the_inner_attack_on_the_source(digits_model, batch):
    x, y = batch
    ids = [str(i) for i in range(len(x))]
    expected = PGD(eps=0.2, steps=4, early_stop=False)(ann_twin(digits_model), x, y, ids)
    assert torch.equal(Transfer(eps=0.2, steps=4)(digits_model, x, y, ids), expected)
    assert torch.equal(Transfer(eps=0.2, steps=4, source=ann_twin)(digits_model, x, y, ids), expected)
    other = Affine()
    other.weight = nn.Parameter(torch.randn(64, 10, generator=torch.Generator().manual_seed(0)))
    other.bias = nn.Parameter(torch.zeros(10))
    inner = FGSM(eps=0.2)
    moved = Transfer(eps=0.2, source=other, inner=inner)
    assert torch.equal(moved(digits_model, x, y, ids), inner(other, x, y, ids))
    before = moved.describe()
    assert before["inner"] == inner.describe()
    with torch.no_grad():
        other.bias += 1
    assert moved.describe() != before
    with pytest.raises(ConfigError, match="give steps, loss to that one"):
        Transfer(eps=0.2, steps=4, loss="margin", inner=inner)
    with pytest.raises(ConfigError, match="no spike to differentiate"):
        Transfer(eps=0.2, estimator=estimator("hart"))


@settings(deadline=None, max_examples=80)
@given(eps=st.floats(0, 6), seed=st.integers(0, 999), far=st.floats(0, 3), sparse=st.booleans())
def test_the_l1_projection_is_the_nearest_point(eps, seed, far, sparse):
    """Against bisection for the multiplier, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 1, 2, 4, generator=generator).double()
    delta = far * torch.randn(3, 1, 2, 4, generator=generator).double()
    if sparse:
        x, delta = x.round(), delta * (torch.rand(3, 1, 2, 4, generator=generator) < 0.4)
    inside = project(x + delta, x, eps, "l1")
    room = torch.where(delta > 0, 1 - x, x)
    for row in range(3):
        low, high = 0.0, float(delta[row].abs().max()) + 1e-9

        def moved(shift, row=row):
            return delta[row].sign() * torch.minimum((delta[row].abs() - shift).clamp_min(0), room[row])

        if moved(0.0).abs().sum() > eps:
            for _ in range(100):
                middle = (low + high) / 2
                low, high = (middle, high) if moved(middle).abs().sum() > eps else (low, middle)
        else:
            high = 0.0
        torch.testing.assert_close(inside[row], x[row] + moved(high), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(eps=st.integers(0, 8), seed=st.integers(0, 999), channels=st.sampled_from([1, 3]))
def test_the_l0_projection_keeps_the_pixels_that_matter(eps, seed, channels):
    """Against every choice of pixels."""
    from itertools import combinations

    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, channels, 2, 3, generator=generator)
    away = x + torch.randn(1, channels, 2, 3, generator=generator)
    inside = project(away, x, eps, "l0")
    assert size(inside - x, "l0") <= eps
    candidates = []
    for chosen in combinations(range(6), min(eps, 6)):
        mask = torch.zeros(6, dtype=torch.bool)
        mask[list(chosen)] = True
        candidates.append(torch.where(mask.view(1, 1, 2, 3), away.clamp(0, 1), x))
    best = min((c - away).square().sum() for c in candidates)
    torch.testing.assert_close((inside - away).square().sum(), best)


@settings(deadline=None, max_examples=40)
@given(eps=st.floats(0, 6), norm=st.sampled_from(["l1", "l0"]), seed=st.integers(0, 99))
def test_starts_and_steps_in_l1_and_l0(eps, norm, seed):
    eps = float(int(eps)) if norm == "l0" else eps
    x = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    start = random_start(x, eps, norm, Draws(seed, "start", ("a", "b", "c")))
    assert size(start - x, norm).max() <= eps * (1 + 1e-5) + 1e-6
    assert start.min() >= 0
    assert start.max() <= 1
    move = ascend(x - 0.5, 2.0, norm)
    torch.testing.assert_close(move.flatten(1).abs().sum(1), torch.full((3,), 2.0 if norm == "l1" else 36.0))
    assert not ascend(torch.zeros_like(x), 1.0, norm).any()


def test_sparse_signs_take_the_largest_share():
    gradient = torch.tensor([[5.0, -4.0, 3.0, 0.1], [1.0, 2.0, 3.0, -4.0]])
    expected = torch.tensor([[0.5, -0.5, 0, 0], [0, 0, 0, -1]])
    assert torch.equal(sparse_sign(gradient, torch.tensor([0.5, 0.25])), expected)


def test_more_pixels_break_more(digits_model, batch):
    x, y = batch
    broken = [(~correct(digits_model, PGD0(eps=k, steps=20)(digits_model, x, y), y)).sum().item() for k in (0, 3, 8)]
    assert broken[0] < broken[1] < broken[2]
