"""What every evasion attack on images keeps: ball, domain, eps = 0, and results that do not depend on the batch."""

from __future__ import annotations

import copy
import itertools
import json
import time

import pytest
import torch

from trustsnn.attacks import (
    APGD,
    ATTACKS,
    CW,
    FGSM,
    MIFGSM,
    PGD,
    PGD0,
    RFGSM,
    SAPGD,
    Attack,
    AttackResult,
    DeepFool,
    Square,
    Transfer,
)
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.bisection import Bisection
from trustsnn.attacks.losses import margin
from trustsnn.attacks.norms import size
from trustsnn.blocks import frozen, predict
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.rng import Draws

ALL = [
    RFGSM(eps=0.15),
    RFGSM(eps=1.2, norm="l2"),
    MIFGSM(eps=0.15, steps=3),
    MIFGSM(eps=1.2, norm="l2", steps=3),
    PGD(eps=6.0, norm="l1", steps=4),
    APGD(eps=0.15, steps=6),
    APGD(eps=1.2, norm="l2", steps=6, loss="dlr", restarts=2),
    APGD(eps=8.0, norm="l1", steps=6),
    APGD(eps=0.15, steps=3, targets=2, loss="dlr"),
    SAPGD(eps=0.15, steps=6),
    Square(eps=0.15, queries=12),
    Square(eps=1.2, norm="l2", queries=12),
    DeepFool(eps=0.15, steps=3, candidates=3),
    DeepFool(eps=1.2, norm="l2", steps=3, candidates=3),
    CW(eps=0.9, steps=4, searches=2, learning_rate=0.08),
    Transfer(eps=0.2, steps=3),
    PGD0(eps=4, steps=4),
    Bisection(eps=0.15, rounds=2),
    SNNAutoAttack(eps=2, norm="l0", profile="quick"),
]
each = pytest.mark.parametrize("attack", ALL, ids=lambda a: f"{a.name}-{a.norm}-{ALL.index(a)}")


@pytest.fixture(scope="module")
def batch(digits_test):
    x, y = digits_test.batch(range(20))
    return torch.from_numpy(x), torch.from_numpy(y)


def correct(model, x, y):
    with frozen(model):
        return predict(model, x).argmax(1) == y


@each
def test_stays_in_ball_and_domain_and_does_not_depend_on_the_batch(attack, digits_model, batch):
    x, y = batch
    ids = [f"s{i}" for i in range(len(x))]
    result = attack.run(digits_model, x, y, ids)
    assert isinstance(result, AttackResult)
    whole = result.adversarial
    assert size(whole - x, attack.norm).max() <= attack.eps * (1 + 1e-5) + 1e-6
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert not torch.equal(whole, x)
    assert not (correct(digits_model, whole, y) & ~correct(digits_model, x, y)).any()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    parts = [attack(digits_model, x[i], y[i], [ids[k] for k in i.tolist()]) for i in order.split([1, 7, 12])]
    assert torch.equal(torch.cat(parts), whole[order])


@each
def test_eps_zero_changes_nothing(attack, digits_model, batch):
    settings = {k: v for k, v in vars(attack).items() if k != "eps"}
    x, y = batch[0][:5], batch[1][:5]
    assert torch.equal(type(attack)(eps=0, **settings)(digits_model, x, y), x)


@each
def test_every_setting_is_in_the_description_as_a_plain_value(attack):
    described = attack.describe()
    assert json.loads(json.dumps(described)) == described
    assert described.keys() >= vars(attack).keys() - {"estimator", "seed"}
    assert described["attack"] == attack.name
    assert ATTACKS.load(attack.name) is type(attack)


STOCHASTIC = [
    APGD(eps=0.2, steps=3, eot=2),
    SAPGD(eps=0.2, steps=3, eot=2),
    Square(eps=0.2, queries=4, eot=2),
    DeepFool(eps=0.2, steps=2, candidates=2, eot=2),
]


@pytest.mark.parametrize("attack", STOCHASTIC, ids=lambda a: a.name)
def test_a_stochastic_model_is_attacked_the_same_in_any_batch(attack, poisson_model, batch):
    x, y = batch[0][:9], batch[1][:9]
    ids = [f"s{i}" for i in range(9)]
    result = attack.run(poisson_model, x, y, ids)
    parts = [attack(poisson_model, x[i : i + 4], y[i : i + 4], ids[i : i + 4]) for i in range(0, 9, 4)]
    assert torch.equal(torch.cat(parts), result.adversarial)
    assert size(result.adversarial - x, "linf").max() <= 0.2 * (1 + 1e-5)


def test_gradients_carry_the_samples_even_of_a_deterministic_model(digits_model, batch, monkeypatch):
    """An estimator that keeps statistics needs to know whose gradient it is asked for."""
    import trustsnn.attacks.base as base

    seen, original = [], base.input_gradient

    def spy(model, x, y, loss, draws=None):
        assert isinstance(draws, Draws)
        assert len(draws.ids) == len(x)
        seen.append(dict(zip(draws.ids, x, strict=True)))
        return original(model, x, y, loss, draws)

    monkeypatch.setattr(base, "input_gradient", spy)
    x, y = batch
    ids = [f"s{i}" for i in range(len(x))]
    for attack in (FGSM(eps=0.05), PGD(eps=0.05, steps=4), APGD(eps=0.05, steps=4), SAPGD(eps=0.05, steps=4)):
        seen.clear()
        attack(digits_model, x, y, ids)
        assert seen
        for step in seen:  # a name never moves to another sample while others leave the batch
            assert all((step[name] - x[ids.index(name)]).abs().max() <= 0.05 * (1 + 1e-5) for name in step)


@each
def test_events_are_refused(attack):
    events = build("mlp", input_shape=(4, 2, 6, 6), classes=3, domain="events-binary")
    with pytest.raises(ConfigError, match="leave the domain"):
        attack(events, torch.zeros(1, 4, 2, 6, 6), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    ("kind", "settings_", "message"),
    [
        (APGD, {"targets": 3, "targeted": True}, "Leave out targeted"),
        (APGD, {"steps": 0}, "steps of at least 1"),
        (APGD, {"targets": -1}, "targets of at least 0"),
        (APGD, {"restarts": 0}, "restarts of at least 1"),
        (SAPGD, {"norm": "l2"}, "Known: linf"),
        (Square, {"queries": 0}, "queries of at least 1"),
        (Square, {"patch": 0.0}, "share of the image"),
        (MIFGSM, {"decay": -1.0}, "decay of at least 0"),
        (RFGSM, {"share": 1.0}, "share of eps"),
        (DeepFool, {"targeted": True}, "Leave out targeted"),
        (CW, {"learning_rate": 0.0}, "positive learning_rate"),
        (CW, {"norm": "linf"}, "Known: l2"),
        (Transfer, {"inner": PGD(eps=0.5)}, "same norm, eps"),
    ],
)
def test_bad_settings_are_refused(kind, settings_, message):
    with pytest.raises(ConfigError, match=message):
        kind(eps=0.1, **settings_)


def test_pgd0_counts_pixels():
    with pytest.raises(ConfigError, match="number of pixels"):
        PGD0(eps=1.5)


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.1), APGD(eps=0.12, steps=20), APGD(eps=0.1, steps=5, targets=2, loss="dlr"), SAPGD(eps=0.12, steps=20),
     Square(eps=0.15, queries=150), SNNAutoAttack(eps=0.07, profile="quick")],
    ids=lambda a: f"{a.name}-{getattr(a, 'targets', 0)}",
)  # fmt: skip
def test_it_tells_when_a_sample_fell(attack, digits_model, batch, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(time, "process_time", lambda: float(next(ticks)))
    x, y = batch
    y = torch.cat([(y[:2] + 1) % 10, y[2:]])  # two that are wrong to begin with
    result = attack.run(digits_model, x, y)
    fooled = ~correct(digits_model, result.adversarial, y)
    assert 0 < fooled.sum() < len(y)
    assert torch.equal(result.fell.isfinite(), fooled)
    assert (result.fell[:2] <= result.fell.min() + 1).all()
    assert len(result.fell[fooled].unique()) > 2  # not all at the end


def test_an_ensembles_sample_falls_while_its_member_runs(digits_model, batch, monkeypatch):
    clock, run = [0.0], Attack.run

    def later(*arguments):
        clock[0] += 1000
        return run(*arguments)

    def tick():
        clock[0] += 1
        return clock[0]

    monkeypatch.setattr(Attack, "run", later)
    monkeypatch.setattr(time, "process_time", tick)
    result = SNNAutoAttack(eps=0.07, profile="quick").run(digits_model, *batch)
    fell = result.broken_by >= 0
    assert len(result.broken_by[fell].unique()) > 1
    assert torch.equal(result.fell[fell].div(1000, rounding_mode="floor"), result.broken_by[fell].double())
    assert result.fell[result.broken_by == -1].isinf().all()


def test_the_ensemble_leaves_least_in_the_l0_ball_too(digits_model, batch):
    ensemble = SNNAutoAttack(eps=1, norm="l0", profile="quick")
    assert all(member.label.startswith("PGD0") for member in ensemble.members(digits_model))
    left = [int(correct(digits_model, attack(digits_model, *batch), batch[1]).sum()) for attack in (ensemble, PGD0(eps=1))]
    assert left[0] < left[1]


@pytest.mark.parametrize("profile", ["quick", "standard", "full"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_ensemble_takes_few_classes(classes, profile):
    model = build("mlp", input_shape=(1, 4, 4), classes=classes, channels=0.05, steps=2)
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(classes))
    members = SNNAutoAttack(eps=0.3, profile=profile).members(model)
    y = predict_of(model, x)
    few = [m for m in members if m.label.startswith("APGD") and m.kind == "white-box" and "loss" in m.make.keywords][-1:]
    for member in few:  # the last one has the targeted ratio where there are classes enough
        member.make(eps=0.3).run(model, x, y)
    assert len(members) == len(SNNAutoAttack(eps=0.3, profile=profile).members(build("mlp", input_shape=(1, 4, 4), classes=10)))
    assert any("-DLR-" in member.label for member in members) == (classes >= 3)
    assert any("-T-DLR-" in member.label for member in members) == (classes >= 4 and profile != "quick")
    if profile == "quick":
        SNNAutoAttack(eps=0.3, profile=profile).run(model, x, y)


def predict_of(model, x):
    with frozen(model):
        return predict(model, x).argmax(1)


def test_the_ensemble_does_not_depend_on_the_scale_of_the_logits(digits_model, batch):
    x, y = batch
    louder = copy.deepcopy(digits_model)
    with torch.no_grad():
        for parameter in louder.layers[-1].parameters():
            parameter *= 1000
    attack = SNNAutoAttack(eps=0.1, profile="quick")
    left = [int(correct(each, attack(each, x, y), y).sum()) for each in (digits_model, louder)]
    assert left[1] <= left[0] + len(y) // 20
    assert not attack.run(louder, x, y).zero_gradient.any()


def test_an_ensemble_that_goes_on_breaks_the_same_samples_further(digits_model, batch):
    x, y = batch
    stopped, onward = (
        SNNAutoAttack(eps=0.07, profile="quick", early_stop=stops).run(digits_model, x, y) for stops in (True, False)
    )
    stands, also = (correct(digits_model, each.adversarial, y) for each in (stopped, onward))
    assert 0 < stands.sum() < len(y)
    assert not (also & ~stands).any()
    with frozen(digits_model):
        first, second = (margin(predict(digits_model, each.adversarial), y) for each in (stopped, onward))
    assert (second >= first).all()
    assert second[~stands].mean() > 2 * first[~stands].mean()
