"""FGSM and PGD: their balls, their invariants, and an independent reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trustsnn.attacks import FGSM, PGD
from trustsnn.attacks.losses import cross_entropy, margin
from trustsnn.attacks.norms import ascend, project, random_start, size
from trustsnn.blocks import BLOCK, frozen, input_gradient, predict
from trustsnn.errors import ConfigError, DataError, ModelContractError
from trustsnn.models import build
from trustsnn.neurons import STBP, SpikingNeuron, Surrogate
from trustsnn.rng import Draws


def correct(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with frozen(model):
        return predict(model, x).argmax(1) == y


@pytest.fixture(scope="module")
def batch(digits_test):
    x, y = digits_test.batch(range(70))
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [FGSM, PGD])
def test_attacks_stay_in_ball_and_domain_and_break_something(attack, norm, digits_model, batch):
    x, y = batch
    eps = 0.15 if norm == "linf" else 1.2
    adversarial = attack(eps=eps, norm=norm)(digits_model, x, y)
    assert size(adversarial - x, norm).max() <= eps * (1 + 1e-5)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert correct(digits_model, adversarial, y).float().mean() < correct(digits_model, x, y).float().mean() - 0.2


@pytest.mark.parametrize("attack", [FGSM(eps=0.0), PGD(eps=0.0), PGD(eps=0.0, norm="l2", restarts=2)])
def test_eps_zero_changes_nothing(attack, digits_model, batch):
    assert torch.equal(attack(digits_model, *batch), batch[0])


def test_pgd_is_at_least_as_strong_as_fgsm_and_restarts_only_help(digits_model, batch):
    x, y = batch
    fgsm = correct(digits_model, FGSM(eps=0.1)(digits_model, x, y), y) & correct(digits_model, x, y)
    one = correct(digits_model, PGD(eps=0.1, steps=20)(digits_model, x, y), y)
    three = correct(digits_model, PGD(eps=0.1, steps=20, restarts=3)(digits_model, x, y), y)
    assert one.sum() < fgsm.sum()
    assert not (three & ~one).any()


def test_targeted_attack_reaches_other_classes(digits_model, batch):
    x, y = batch
    attack = PGD(eps=0.5, steps=40, targeted=True, early_stop=False)
    goal = attack.goal(digits_model, x, y, Draws(0, "pgd", tuple(map(str, range(len(x))))))[:, 1]
    assert (goal != y).all()
    adversarial = attack(digits_model, x, y, ids=[str(i) for i in range(len(x))])
    with frozen(digits_model):
        reached = predict(digits_model, adversarial).argmax(1) == goal
    assert reached.float().mean() > 0.8


def test_the_result_does_not_depend_on_batch_or_order(digits_model, batch):
    x, y = batch
    for attack in (FGSM(eps=0.1), PGD(eps=0.1, steps=5, restarts=2), PGD(eps=0.8, norm="l2", steps=5)):
        whole = attack(digits_model, x, y)
        for size_ in (1, 7, 64):
            parts = [attack(digits_model, x[i : i + size_], y[i : i + size_]) for i in range(0, len(x), size_)]
            assert torch.equal(torch.cat(parts), whole)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
        assert torch.equal(attack(digits_model, x[order], y[order]), whole[order])


def test_a_stochastic_model_is_attacked_the_same_in_any_batch(poisson_model, batch):
    x, y = batch[0][:40], batch[1][:40]
    ids = [f"s{i}" for i in range(40)]
    attack = PGD(eps=0.2, steps=3, eot=2)
    whole = attack(poisson_model, x, y, ids)
    parts = [attack(poisson_model, x[i : i + 7], y[i : i + 7], ids[i : i + 7]) for i in range(0, 40, 7)]
    assert torch.equal(torch.cat(parts), whole)
    other = PGD(eps=0.2, steps=3, eot=2, seed=1)(poisson_model, x, y, ids)
    assert not torch.equal(other, whole)


def test_the_model_is_left_as_it_was(batch):
    model = build("mlp", input_shape=(1, 8, 8), classes=10).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    own = [m.estimator for m in model.modules() if isinstance(m, SpikingNeuron)]
    PGD(eps=0.1, steps=2, estimator=STBP(Surrogate("atan", 0.5)))(model, *batch)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [m.estimator for m in model.modules() if isinstance(m, SpikingNeuron)] == own


def test_the_estimator_decides_the_gradient(digits_model, batch):
    x, y = batch
    results = [FGSM(eps=0.1, estimator=STBP(Surrogate("triangular", w)))(digits_model, x, y) for w in (0.1, 3.0)]
    own = FGSM(eps=0.1)(digits_model, x, y)
    assert torch.equal(FGSM(eps=0.1, estimator=STBP(Surrogate("triangular", 1.0)))(digits_model, x, y), own)
    assert not torch.equal(results[0], results[1])


class Smooth(nn.Module):
    """A small network without spikes, for references that know no spikes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(64, 32, generator=generator) / 8)
        self.second = nn.Parameter(torch.randn(32, 10, generator=generator) / 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.first).relu() @ self.second


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targeted", [False])
def test_fgsm_and_pgd_agree_with_torchattacks(targeted, digits_model, batch):
    """Independent reference: torchattacks 3.5.1 (Kim 2020), without random start, same steps."""
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    x, y = batch[0][:BLOCK], batch[1][:BLOCK]
    for model in (Smooth().eval(), digits_model):
        with frozen(model):  # the peer too sees the normalisation folded, so that both round alike
            device = next(model.parameters()).device
            peer = torchattacks.FGSM(model, eps=0.1)
            peer.device = device
            torch.testing.assert_close(FGSM(eps=0.1)(model, x, y), peer(x, y), rtol=0, atol=1e-6)
            peer = torchattacks.PGD(model, eps=0.1, alpha=0.02, steps=7, random_start=False)
            mine = PGD(eps=0.1, step_size=0.02, steps=7, random_start=False, early_stop=False)(model, x, y)
            torch.testing.assert_close(mine, peer(x, y), rtol=0, atol=1e-6)
            peer = torchattacks.PGDL2(model, eps=0.8, alpha=0.2, steps=5, random_start=False)
            mine = PGD(eps=0.8, step_size=0.2, steps=5, norm="l2", random_start=False, early_stop=False)(model, x, y)
            torch.testing.assert_close(mine, peer(x, y), rtol=0, atol=1e-5)


def test_input_gradient_is_that_of_each_sample_alone(batch):
    model, (x, y) = Smooth(), (batch[0][:5].double(), batch[1][:5])
    model.double()
    _, losses, direction, scale = input_gradient(model, x, y, cross_entropy)
    gradient = direction * scale.view(-1, 1, 1, 1)
    for i in range(5):
        leaf = x[i : i + 1].clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(leaf), y[i : i + 1])
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(gradient[i : i + 1], expected)
        torch.testing.assert_close(losses[i], loss.detach())


def test_margin_by_hand():
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    assert margin(logits, torch.tensor([1, 0])).tolist() == [-1.0, 2.0]


@settings(deadline=None, max_examples=60)
@given(
    eps=st.floats(0, 2), norm=st.sampled_from(["linf", "l2"]), seed=st.integers(0, 99), step=st.floats(0, 3), far=st.floats(0, 5)
)
def test_projection_and_steps(eps, norm, seed, step, far):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, 4, generator=generator)
    away = x + far * torch.randn(3, 2, 4, generator=generator)
    inside = project(away, x, eps, norm)
    assert size(inside - x, norm).max() <= eps * (1 + 1e-5) + 1e-6
    assert inside.min() >= 0
    assert inside.max() <= 1
    torch.testing.assert_close(project(inside, x, eps, norm), inside, rtol=1e-5, atol=1e-6)
    start = random_start(x, eps, norm, Draws(seed, "start", ("a", "b", "c")))
    assert size(start - x, norm).max() <= eps * (1 + 1e-5) + 1e-6
    move = ascend(away, step, norm)
    torch.testing.assert_close(size(move, norm), torch.full((3,), step), rtol=1e-4, atol=1e-6)


def test_zero_gradient_makes_no_step():
    assert torch.equal(ascend(torch.zeros(2, 3), 0.5, "l2"), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"eps": -0.1}, "eps of at least 0"),
        ({"eps": float("nan")}, "eps of at least 0"),
        ({"eps": 0.1, "norm": "l3"}, "not defined for the norm"),
        ({"eps": 0.1, "steps": 0}, "steps of at least 1"),
        ({"eps": 0.1, "step_size": -1.0}, "positive step_size"),
        ({"eps": 0.1, "loss": "hinge"}, "Known: ce, ce-scaled, margin, margin-ties, dlr"),
        ({"eps": 0.1, "eot": 0}, "eot of at least 1"),
    ],
)
def test_bad_settings_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        PGD(**settings_)


def test_bad_batches_are_refused(digits_model, batch):
    x, y = batch
    attack = FGSM(eps=0.1)
    with pytest.raises(DataError, match="NaN"):
        attack(digits_model, torch.full_like(x, torch.nan), y)
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        attack(digits_model, x * 255, y)
    with pytest.raises(DataError, match="as many labels"):
        attack(digits_model, x, y[:3])
    events = build("mlp", input_shape=(4, 2, 6, 6), classes=3, domain="events-binary")
    with pytest.raises(ConfigError, match="leave the domain"):
        attack(events, torch.zeros(1, 4, 2, 6, 6), torch.zeros(1, dtype=torch.long))


def test_a_module_that_returns_no_logits_is_named(batch):
    with pytest.raises(ModelContractError, match=r"\[32, K\]"):
        FGSM(eps=0.1)(nn.Identity(), *batch)


class Scaled(nn.Module):
    """A model whose logits are multiplied: the same decisions, so the same robustness, through other gradients."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) * self.factor


@pytest.mark.parametrize("factor", [1e-24, 1e-3, 30.0])
def test_l2_attacks_follow_gradients_of_any_size(factor, digits_model, batch):
    """Squares of a confident model's gradients underflow in float32: the attack must not stand still."""
    x, y = batch
    expected = correct(digits_model, PGD(eps=1.5, norm="l2")(digits_model, x, y), y).float().mean()
    got = correct(digits_model, PGD(eps=1.5, norm="l2")(Scaled(digits_model, factor), x, y), y).float().mean()
    assert got <= expected + 0.05, (got, expected)


def test_attacks_work_where_gradients_are_switched_off(digits_model, batch):
    x, y = batch
    expected = PGD(eps=0.1, steps=3)(digits_model, x, y)
    with torch.no_grad():
        assert torch.equal(PGD(eps=0.1, steps=3)(digits_model, x, y), expected)
    with torch.inference_mode():
        assert torch.equal(PGD(eps=0.1, steps=3)(digits_model, x.clone(), y.clone()), expected)


def test_every_id_draws_even_a_falsy_one(digits_model, batch):
    x, y = batch[0][:3], batch[1][:3]
    attack = PGD(eps=0.1, steps=1)
    assert torch.equal(attack(digits_model, x, y, range(3)), attack(digits_model, x, y, ["0", "1", "2"]))
    assert (Draws(0, "t", ("", "0", "x")).uniform((8,)).sum(1) > 0).all()


def test_wrong_types_are_named(digits_model, batch):
    x, y = batch
    with pytest.raises(DataError, match="torch tensor"):
        FGSM(eps=0.1)(digits_model, x.numpy(), y)
    with pytest.raises(DataError, match="int64"):
        FGSM(eps=0.1)(digits_model, x, y.int())


def test_a_sample_that_does_not_move_takes_no_further_steps(digits_model, batch):
    """At eps 0 no step moves anything: one gradient each, not ten, and the same result."""
    seen = []

    class Counting(nn.Module):
        spec = digits_model.spec

        def __init__(self) -> None:
            super().__init__()
            self.inner = digits_model

        def forward(self, x):
            seen.append(x.requires_grad)
            return self.inner(x)

    x, y = batch[0][:BLOCK], batch[1][:BLOCK]
    adversarial = PGD(eps=0.0, step_size=0.1, steps=10, early_stop=False)(Counting(), x, y)
    assert torch.equal(adversarial, x)
    assert sum(seen) == 1


def test_restarts_from_the_same_point_are_refused_where_nothing_is_drawn(digits_model, batch):
    attack = PGD(eps=0.1, restarts=3, random_start=False)
    with pytest.raises(ConfigError, match="are the same run"):
        attack(digits_model, *batch)
    model = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, encoder="poisson")
    assert attack(model, *batch).shape == batch[0].shape
