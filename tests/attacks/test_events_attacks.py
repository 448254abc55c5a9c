"""Attacks on event frames: domain, budgets, invariants, and whether they break a small trained model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trustsnn.attacks.events import (
    SDA,
    CornerAttack,
    DashAttack,
    Deletion,
    FilterAwareDash,
    Filtered,
    FrameAttack,
    Insertion,
    Retiming,
    SpikeFool,
    UniversalPatch,
    background_activity,
    mask,
    success_curve,
)
from trustsnn.attacks.events.changes import unit_step
from trustsnn.attacks.events.filters import activity
from trustsnn.attacks.events.oracle import Oracle
from trustsnn.attacks.events.spikefool import _cross
from trustsnn.attacks.losses import margin
from trustsnn.blocks import frozen, input_gradient, predict
from trustsnn.data import load
from trustsnn.errors import ConfigError, DataError
from trustsnn.hardware.choose import parse
from trustsnn.hardware.deploy import deploy
from trustsnn.models import build
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import STBP, Surrogate
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig, train

FRAMES = 5
EVERY = [
    SDA(iterations=20),
    SDA(budget=6, iterations=20),
    Insertion(budget=12),
    Deletion(budget=12),
    Retiming(iterations=6),
    Retiming(budget=8, furthest=2, total=14, iterations=6),
    SpikeFool(budget=40, iterations=4, inner=3, rivals=2),
    FrameAttack(thickness=2),
    CornerAttack(budget=40),
    DashAttack(),
    FilterAwareDash(most=3),
]


def trained(counts: bool) -> nn.Module:
    data = load("events:digits", "train", frames=FRAMES, counts=counts)
    model = build(
        "conv",
        input_shape=data.sample_shape,
        classes=10,
        steps=FRAMES,
        domain=data.domain,
        max_count=data.max_count,
        channels=0.25,
    )
    train(model, data, TrainConfig(epochs=5, batch_size=32, learning_rate=4e-3))
    return model


@pytest.fixture(scope="module")
def binary():
    return trained(counts=False)


@pytest.fixture(scope="module")
def counting():
    return trained(counts=True)


def correct_samples(model: nn.Module, counts: bool, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = map(torch.from_numpy, load("events:digits", "test", frames=FRAMES, counts=counts).batch(range(60)))
    with frozen(model):
        right = predict(model, x).argmax(1) == y
    assert right.float().mean() > 0.75
    return x[right][:number], y[right][:number]


@pytest.fixture(scope="module")
def batch(binary):
    return correct_samples(binary, False, 30)


@pytest.fixture(scope="module")
def count_batch(counting):
    return correct_samples(counting, True, 5)


def wrong(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with frozen(model):
        return predict(model, x).argmax(1) != y


def label_of(attack) -> str:
    return "-".join([attack.name, *(str(v) for v in attack.describe().values() if isinstance(v, int | float))])


class Linear(nn.Module):
    """A model of which everything is known: logits are inner products with fixed small whole numbers."""

    def __init__(self, shape: tuple[int, ...], most: int | None, seed: int) -> None:
        super().__init__()
        domain = "events-binary" if most is None else "events-count"
        self.spec = ModelSpec(domain, shape, 3, shape[0], "frames", "own", False, most)
        generator = torch.Generator().manual_seed(seed)
        size = int(np.prod(shape))
        self.weight = nn.Parameter(torch.randint(-4, 5, (size, 3), generator=generator).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


def check_domain_and_budget(attack, x: torch.Tensor, adversarial: torch.Tensor, most: int) -> None:
    assert adversarial.shape == x.shape
    assert adversarial.dtype == x.dtype
    assert torch.equal(adversarial, adversarial.round())
    assert adversarial.min() >= 0
    assert adversarial.max() <= most
    for clean, changed in zip(x.long().tolist(), adversarial.long().tolist(), strict=True):
        difference = (np.array(changed) - np.array(clean)).reshape(len(clean), -1)
        up, down = int(difference.clip(min=0).sum()), int(-difference.clip(max=0).sum())
        if isinstance(attack, Retiming):
            check_retiming(attack, np.array(clean), np.array(changed))
            continue
        if attack.budget is not None:
            assert up + down <= attack.budget
        if isinstance(attack, Deletion):
            assert up == 0
        elif not isinstance(attack, SDA | SpikeFool):
            assert down == 0


def check_retiming(attack: Retiming, clean: np.ndarray, changed: np.ndarray) -> None:
    """The cheapest way in which the events of each site can have moved: sorted times are matched in order, which is the least
    sum and the least largest move at once; and at least as many moved as have left a place."""
    clean, changed = clean.reshape(len(clean), -1), changed.reshape(len(changed), -1)
    np.testing.assert_array_equal(clean.sum(0), changed.sum(0), "a site gained or lost an event")
    steps = np.arange(len(clean))
    moves = [np.abs(np.repeat(steps, a) - np.repeat(steps, b)) for a, b in zip(clean.T, changed.T, strict=True)]
    distance = np.concatenate(moves)
    if attack.furthest is not None:
        assert distance.max(initial=0) <= attack.furthest
    if attack.total is not None:
        assert distance.sum() <= attack.total
    if attack.budget is not None:
        assert (clean - changed).clip(min=0).sum() <= attack.budget


@pytest.mark.parametrize("attack", EVERY, ids=label_of)
def test_binary_stays_binary_and_budgets_hold(attack, binary, batch):
    x, y = batch[0][:6], batch[1][:6]
    result = attack.run(binary, x, y)
    check_domain_and_budget(attack, x, result.adversarial, 1)
    assert torch.equal(result.fooled, wrong(binary, result.adversarial, y))
    changed = (result.adversarial != x).flatten(1).sum(1)
    assert torch.equal(result.changes > 0, changed > 0)
    if not isinstance(attack, Retiming):
        assert torch.equal(result.changes, changed)
    assert (result.queries >= 1).all()


@pytest.mark.parametrize("attack", EVERY, ids=label_of)
def test_counts_stay_whole_and_in_range(attack, counting, count_batch):
    x, y = count_batch
    result = attack.run(counting, x, y)
    check_domain_and_budget(attack, x, result.adversarial, counting.spec.max_count)
    if not isinstance(attack, Retiming):
        assert torch.equal(result.changes, (result.adversarial - x).abs().flatten(1).sum(1).long())


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999),
    most=st.sampled_from([None, 1, 3]),
    budget=st.one_of(st.none(), st.integers(0, 9)),
    furthest=st.one_of(st.none(), st.integers(0, 4)),
    total=st.one_of(st.none(), st.integers(0, 12)),
    density=st.floats(0, 1),
)
def test_any_budget_holds_on_any_frames(seed, most, budget, furthest, total, density):
    shape = (5, 2, 3, 3)
    model = Linear(shape, most, seed)
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand((4, *shape), generator=generator) < density).float() * torch.randint(
        1, (most or 1) + 1, (4, *shape), generator=generator
    )
    y = torch.randint(0, 3, (4,), generator=generator)
    for attack in (
        Retiming(budget=budget, furthest=furthest, total=total, iterations=4),
        SDA(budget=budget, iterations=4),
        Insertion(budget=budget, per_step=3),
        Deletion(budget=budget, per_step=2),
        SpikeFool(budget=budget, iterations=3, inner=2),
        CornerAttack(budget=budget),
    ):
        result = attack.run(model, x, y)
        check_domain_and_budget(attack, x, result.adversarial, most or 1)
        if budget is not None:
            assert result.changes.max() <= budget


@pytest.mark.parametrize("attack", [SDA, Insertion, Deletion, Retiming, SpikeFool, FrameAttack, DashAttack, FilterAwareDash])
def test_zero_budget_changes_nothing(attack, binary, batch):
    result = attack(budget=0).run(binary, *batch)
    assert torch.equal(result.adversarial, batch[0])
    assert not result.changes.any()
    assert not result.fooled.any()
    assert torch.equal(Retiming(furthest=0)(binary, *batch), batch[0])
    assert torch.equal(Retiming(total=0)(binary, *batch), batch[0])


@pytest.mark.parametrize("attack", EVERY, ids=label_of)
def test_the_result_does_not_depend_on_batch_or_order(attack, binary, batch):
    x, y = batch[0][:6], batch[1][:6]
    whole = attack.run(binary, x, y)
    back = attack.run(binary, x.flip(0), y.flip(0))
    parts = [attack.run(binary, x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4)]
    for name in ("adversarial", "fooled", "changes", "queries"):
        assert torch.equal(getattr(back, name).flip(0), getattr(whole, name))
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_a_sample_that_is_wrong_already_is_left_alone(binary, batch):
    x, y = batch[0][:3], (batch[1][:3] + 1) % 10
    for attack in EVERY:
        result = attack.run(binary, x, y)
        assert torch.equal(result.adversarial, x)
        assert result.fooled.all()


def on_a_chip(model: nn.Module) -> nn.Module:
    """The model behind a camera and wires that draw at each use."""
    return deploy(model, parse("dvs-noisy+spike-loss:probability=0.05"))


def test_a_stochastic_model_answers_for_all_draws_of_a_sample(binary, batch):
    chip, (x, y), draws = on_a_chip(binary), batch, Draws(0, "t", tuple(map(str, range(len(batch[0])))))
    rows = torch.tensor([4, 0, 4])
    with frozen(chip):
        oracle = Oracle(chip, y, 1, draws, eot=3)
        logits, (fooled, margins) = oracle.logits(x[rows], rows), oracle.margins(x[rows], rows)
        each = [predict(chip, x[rows], draws.select(rows.tolist()).child("eot", k)) for k in range(3)]
        assert torch.equal(logits, torch.stack(each).mean(0))
        assert not torch.equal(each[0], each[1])
        assert torch.equal(logits[0], logits[2])  # the same sample, the same draws
        assert torch.equal(fooled, torch.stack([one.argmax(1) != y[rows] for one in each]).all(0))
        assert torch.equal(margins, torch.stack([margin(one.double(), y[rows]) for one in each]).amin(0))
        assert oracle.queries.tolist() == [6, 0, 0, 0, 12] + [0] * (len(x) - 5)
        gradient = oracle.gradient(x[rows], rows)
        assert torch.equal(gradient[0], fooled)
        torch.testing.assert_close(gradient[1], margins, rtol=0, atol=1e-6)
        parts = [input_gradient(chip, x[rows], y[rows], margin, draws.select(rows.tolist()).child("eot", k)) for k in range(3)]
        mean = torch.stack([part.direction * part.scale.view(-1, 1, 1, 1, 1) for part in parts]).mean(0)
        assert torch.nn.functional.cosine_similarity(mean.flatten(1), gradient[2].flatten(1).double()).min() > 0.999


@pytest.mark.parametrize(
    "attack", [SDA(budget=8, iterations=6, eot=2), Retiming(iterations=3, eot=2), Deletion(budget=6)], ids=label_of
)
def test_a_chip_that_draws_is_attacked_the_same_in_any_batch(attack, binary, batch):
    chip, (x, y) = on_a_chip(binary), (batch[0][:6], batch[1][:6])
    ids, order = list("abcdef"), torch.tensor([3, 0, 5, 1])
    whole, some = attack.run(chip, x, y, ids), attack.run(chip, x[order], y[order], [ids[i] for i in order])
    assert torch.equal(whole.adversarial[order], some.adversarial)
    assert torch.equal(whole.fooled[order], some.fooled)
    assert ((whole.adversarial == 0) | (whole.adversarial == 1)).all()
    assert whole.changes.any()
    behind = Filtered(chip, lambda events: mask(events, 50))
    assert torch.equal(attack.run(behind, x, y, ids).adversarial, whole.adversarial)


def test_attacks_on_events_break_a_chip_that_draws(binary, batch):
    chip, (x, y) = deploy(binary, parse("spike-loss:probability=0.05")), (batch[0][:16], batch[1][:16])
    judge = [Draws(seed, "judge", tuple(map(str, range(len(x))))) for seed in range(3)]
    wrong = []  # on draws that the attack has not seen
    for eot in (0, 1, 8):
        found = SDA(iterations=20, eot=eot).run(chip, x, y, judge[0].ids) if eot else None
        assert found is None or found.fooled.all()
        with frozen(chip):
            answers = [predict(chip, x if found is None else found.adversarial, each) for each in judge]
        wrong.append(float(torch.stack([logits.argmax(1) != y for logits in answers]).float().mean()))
    assert wrong[0] < 0.2
    assert wrong[2] > max(0.6, wrong[1] + 0.2)


def test_sda_breaks_nearly_all_where_random_flips_break_few(binary, batch):
    x, y = batch
    result = SDA().run(binary, x, y)
    assert result.fooled.float().mean() >= 0.95
    assert result.changes.float().mean() < 0.15 * x.flatten(1).sum(1).mean()
    broken = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        flipped = x.clone().flatten(1)
        for row, number in enumerate(result.changes.tolist()):
            places = torch.randperm(flipped.shape[1], generator=generator)[:number]
            flipped[row, places] = 1 - flipped[row, places]
        broken.append(wrong(binary, flipped.view_as(x), y).float().mean())
    assert torch.stack(broken).mean() < 0.25


def test_no_flip_of_sda_can_be_spared(binary, batch):
    x, y = batch[0][:6], batch[1][:6]
    adversarial = SDA()(binary, x, y)
    flips, spared = 0, 0
    for clean, found, label in zip(x, adversarial, y, strict=True):
        places = (clean != found).flatten().nonzero().squeeze(1)
        without = found.flatten().repeat(len(places), 1)
        without[torch.arange(len(places)), places] = clean.flatten()[places]
        flips += len(places)
        spared += int(wrong(binary, without.view(-1, *clean.shape), label.expand(len(places))).sum())
    assert flips > 0
    assert spared == 0


def test_sda_finds_the_fewest_flips_of_a_linear_model():
    """With one rival far ahead of the others, the fewest flips are the largest weight differences: known by hand."""
    shape = (4, 2, 2, 2)
    model = Linear(shape, None, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[:, 1] = torch.arange(1.0, 33.0)
        model.weight[:, 2] = -1000.0
    x = torch.zeros((1, *shape))
    with torch.no_grad():
        model.weight[0] = torch.tensor([100.0, 0.0, -1000.0])
    x.view(-1)[[0, 5]] = 1.0  # the label leads by 100 - 6, which one deletion undoes, or 32 + 31 + 30 + 29 > 94
    assert SDA().run(model, x, torch.tensor([0])).changes.tolist() == [1]
    assert Insertion(per_step=1).run(model, x, torch.tensor([0])).changes.tolist() == [4]


class Lures(nn.Module):
    """Ten places whose gradient promises 20 and whose event costs 80, and others that give the 5 they promise."""

    spec = ModelSpec("events-binary", (4, 2, 2, 2), 2, 4, "frames", "own", False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        lures, honest = flat[:, :10], flat[:, 10:]
        rival = (20 * lures - 100 * lures**2).sum(1) + 5 * honest.sum(1)
        return torch.stack([torch.full_like(rival, 17.0), rival], 1)


def test_sda_does_not_make_a_flip_that_lowers_the_margin():
    x, y = torch.zeros((1, 4, 2, 2, 2)), torch.tensor([0])
    result = SDA().run(Lures(), x, y)
    assert result.fooled.all()
    assert result.changes.tolist() == [4]
    assert not result.adversarial.flatten()[:10].any()
    assert not Insertion().run(Lures(), x, y).fooled.any(), "the gradient alone is lured"


def test_spikefool_crosses_the_boundary_of_a_linear_model_at_once():
    shape = (4, 2, 2, 2)
    model = Linear(shape, None, 0)
    x = torch.zeros((1, *shape))
    x.view(-1)[:5] = 1.0
    with torch.no_grad():
        model.weight.zero_()
        model.weight[:5, 0] = 8.0
        model.weight[5:, 1] = 10.0
        model.weight[:5, 2] = -1000.0
    y = torch.tensor([0])  # it leads by 40: five events of 10 for its rival cross that
    changes = [SpikeFool(iterations=1, reach=reach).run(model, x, y) for reach in (1.0, 2.0)]
    assert all(each.fooled.all() for each in changes)
    assert [int(each.changes) for each in changes] == [5, 9]


def test_retiming_breaks_the_model_and_further_moves_break_more(binary, batch):
    x, y = batch[0][:16], batch[1][:16]
    free = Retiming(iterations=20).run(binary, x, y).fooled
    near = Retiming(iterations=20, furthest=1, budget=6).run(binary, x, y).fooled
    assert free.float().mean() >= 0.8
    assert near.sum() < free.sum()


def test_retiming_needs_timing():
    """A model that only counts the events of a site cannot be broken by moving them."""
    shape = (4, 2, 2, 2)
    model = Linear(shape, None, 3)
    with torch.no_grad():
        model.weight.copy_(model.weight.view(4, 8, 3)[:1].expand(4, 8, 3).reshape(32, 3))
    x = (torch.rand((8, *shape), generator=torch.Generator().manual_seed(0)) < 0.4).float()
    y = model(x).argmax(1)
    assert not Retiming().run(model, x, y).fooled.any()


def test_spikefool_insertion_and_deletion_break_the_model(binary, batch):
    x, y = batch[0][:16], batch[1][:16]
    for attack in (SpikeFool(rivals=2), Insertion(), Deletion()):
        result = attack.run(binary, x, y)
        assert result.fooled.float().mean() >= 0.9
        assert not result.zero_gradient.any()


def test_crossing_a_hyperplane_by_hand():
    normal = torch.tensor([[3.0, -5.0, 1.0, 4.0]])
    x = torch.tensor([[0.0, 1.0, 0.0, 1.0]])  # the last has no room upwards
    for need, expected in ((0.0, [0, 0, 0, 1]), (5.0, [0, 0, 0, 1]), (5.5, [1, 0, 0, 1]), (99.0, [1, 0, 1, 1])):
        assert _cross(x, normal, torch.tensor([need]).double(), 1).tolist() == [expected]
    counts = torch.tensor([[0.0, 2.0, 0.0, 1.0]])
    assert _cross(counts, normal, torch.tensor([15.0]).double(), 3).tolist() == [[0, 0, 0, 3]]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9999), most=st.integers(1, 4))
def test_unit_steps_are_possible_and_are_the_flips_of_sda(seed, most):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, most + 1, (2, 3, 2, 2, 2), generator=generator).float()
    g = torch.randint(-2, 3, x.shape, generator=generator).float()
    step = unit_step(x, g, most)
    assert ((x + step >= 0) & (x + step <= most)).all()
    assert (step * g >= 0).all()
    if most == 1:
        assert torch.equal(step != 0, (1 - 2 * x) * g >= 0)


def test_a_universal_patch_breaks_many_and_random_patches_few(binary, batch):
    x, y = batch
    patch = UniversalPatch(height=4, width=4, row=3, column=3, iterations=15).fit(binary, x, y)
    pasted = patch(x)
    assert set(pasted.unique().tolist()) <= {0.0, 1.0}
    outside = torch.ones_like(x, dtype=torch.bool)
    outside[..., 3:7, 3:7] = False
    assert torch.equal(pasted[outside], x[outside])
    broken = wrong(binary, pasted, y).float().mean()
    assert float(broken) == pytest.approx(patch.success)
    generator = torch.Generator().manual_seed(0)
    chance = []
    for _ in range(5):
        random = x.clone()
        random[..., 3:7, 3:7] = (torch.rand(patch.events.shape, generator=generator) < patch.events.mean()).float()
        chance.append(wrong(binary, random, y).float().mean())
    assert broken > torch.stack(chance).mean() + 0.15
    order = torch.randperm(len(x), generator=generator)
    again = UniversalPatch(height=4, width=4, row=3, column=3, iterations=15).fit(binary, x[order], y[order])
    assert torch.equal(again.events, patch.events)


def test_a_patch_fits_its_frames(binary, batch):
    with pytest.raises(ConfigError, match="inside the frames"):
        UniversalPatch(height=4, width=4, row=8).fit(binary, *batch)
    patch = UniversalPatch(height=2, width=2, iterations=1).fit(binary, *batch)
    with pytest.raises(DataError, match="steps that it was made for"):
        patch(batch[0][:, :3])


def reference_background_activity(x: np.ndarray, radius: int, steps: int) -> np.ndarray:
    """Event by event, as the definition says."""
    kept = np.zeros_like(x)
    for t, p, row, column in np.argwhere(x != 0):
        for other in np.argwhere(x != 0):
            near = max(abs(other[2] - row), abs(other[3] - column))
            if 0 <= t - other[0] <= steps and 1 <= near <= radius:
                kept[t, p, row, column] = x[t, p, row, column]
    return kept


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 9999), radius=st.integers(1, 4), steps=st.integers(0, 5))
def test_filters_agree_with_their_definitions(seed, radius, steps):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand((2, 4, 2, 6, 5), generator=generator) < 0.06).float() * torch.randint(
        1, 4, (2, 4, 2, 6, 5), generator=generator
    )
    for sample, kept in zip(x.numpy(), background_activity(x, radius, steps).numpy(), strict=True):
        np.testing.assert_array_equal(kept, reference_background_activity(sample, radius, steps))
    silenced = mask(x, steps)
    total = x.sum((1, 2))
    assert torch.equal(silenced.sum((1, 2)), torch.where(total > steps, 0.0, total))


def test_the_filter_aware_dash_passes_the_mask_that_stops_the_dash(binary, batch):
    x, _ = batch
    for most in (1, 3):
        for pattern in list(FilterAwareDash(most=most).patterns(tuple(x.shape[1:])))[:6]:
            overlaid = FilterAwareDash(most=most).overlaid(x, pattern, 1)
            added = overlaid - x
            assert added.sum() > 0
            assert torch.equal(mask(overlaid, most) * added, added), "an event of the dash was filtered out"
            dash = DashAttack()
            plain = next(dash.patterns(tuple(x.shape[1:]))).expand_as(x)
            assert not (mask((x + plain).clamp_max(1), most) * plain).any(), "the plain dash should not pass"


def test_a_filtered_model_is_attacked_through_its_filter(binary, batch):
    x, y = batch
    guarded = Filtered(binary, lambda events: mask(events, 7))
    right = ~wrong(guarded, x, y)
    x, y = x[right], y[right]
    assert len(x) >= 5
    bare, behind = (FrameAttack().run(model, x, y).fooled.sum() for model in (binary, guarded))
    assert behind < bare / 2, "the filter takes the frame out"
    result = SDA(iterations=40).run(guarded, x, y)
    assert result.fooled.float().mean() > 0.7
    assert torch.equal(result.fooled, wrong(binary, mask(result.adversarial, 7), y))


def test_the_frame_is_the_border():
    pattern = next(FrameAttack().patterns((3, 2, 4, 5)))
    assert int(pattern[0, 0].sum()) == 14
    assert not pattern[:, :, 1:-1, 1:-1].any()
    assert activity(pattern[None])[0, 0, 0] == 6


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=30))
def test_the_success_curve_counts(samples):
    fooled, changes = np.array([f for f, _ in samples]), np.array([c for _, c in samples])
    budgets, rates = success_curve(fooled, changes)
    assert budgets[0] == 0
    for budget, rate in zip(budgets, rates, strict=True):
        assert rate == sum(f and c <= budget for f, c in samples) / len(samples)
    assert (np.diff(rates) > 0).all()
    assert rates[-1] == fooled.mean()
    read, at = success_curve(fooled, changes, np.array([0, 5, 100]))
    assert read.tolist() == [0, 5, 100]
    assert at[2] == fooled.mean()


def test_the_success_curve_refuses_what_is_no_result():
    with pytest.raises(DataError, match="as many changes"):
        success_curve(np.array([True]), np.array([1, 2]))
    with pytest.raises(DataError, match="whole numbers"):
        success_curve(np.array([True]), np.array([-1]))


def test_the_model_is_left_as_it_was_and_the_estimator_is_used(binary, batch):
    x, y = batch[0][:4], batch[1][:4]
    before = {name: value.clone() for name, value in binary.state_dict().items()}
    own = Insertion(budget=10)(binary, x, y)
    other = Insertion(budget=10, estimator=STBP(Surrogate("triangular", 0.1)))(binary, x, y)
    assert not torch.equal(own, other)
    assert all(torch.equal(before[name], value) for name, value in binary.state_dict().items())
    assert all(p.requires_grad for p in binary.parameters())
    with torch.inference_mode():
        assert torch.equal(Insertion(budget=10)(binary, x.clone(), y.clone()), own)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SDA(budget=-1), "budget of at least 0"),
        (lambda: SDA(budget=1.5), "budget of sda as int"),
        (lambda: SDA(iterations=True), "iterations of sda as int"),
        (lambda: Retiming(furthest=-1), "furthest of at least 0"),
        (lambda: SpikeFool(reach=float("nan")), "reach of at least 1"),
        (lambda: Insertion(per_step=0), "per_step of at least 1"),
        (lambda: SDA(eot=0), "eot of at least 1"),
        (lambda: UniversalPatch(height=2.5, width=2), "height of universal-patch as int"),
        (lambda: UniversalPatch(height=2, width=2, momentum=1.0), "momentum"),
        (lambda: FilterAwareDash(most=0), "most of at least 1"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_bad_batches_are_refused(binary, batch):
    x, y = batch
    for bad, message in (
        (x * 0.5, "whole numbers"),
        (x * 2, r"0\.\.1"),
        (torch.full_like(x, torch.nan), "NaN"),
        (x[:, :3], r"\[B, 5, 2"),
        (x.numpy(), "torch tensor"),
        (x.long(), "floating-point"),
    ):
        with pytest.raises(DataError, match=message):
            SDA()(binary, bad, y)
    with pytest.raises(DataError, match="as many labels"):
        SDA()(binary, x, y[:3])
    with pytest.raises(DataError, match=r"labels in 0\.\.9"):
        SDA()(binary, x, y + 10)
    with pytest.raises(ConfigError, match="one a sample"):
        SDA()(binary, x, y, ids=["a"])
    with pytest.raises(ConfigError, match="draw nothing"):
        UniversalPatch(height=2, width=2).fit(on_a_chip(binary), x, y)
    with pytest.raises(ConfigError, match="domain is 'image'"):
        SDA()(build("mlp", input_shape=(1, 8, 8), classes=10), torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long))
