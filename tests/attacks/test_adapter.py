"""The torchattacks adapter: checks, seeds and states around foreign code, and agreement with that code called bare."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from trustsnn.attacks import ATTACKS, adapter
from trustsnn.attacks.adapter import TorchAttack, torch_attack
from trustsnn.attacks.catalogue import TORCHATTACKS
from trustsnn.attacks.norms import size
from trustsnn.blocks import frozen, predict
from trustsnn.canonical import canonical_json
from trustsnn.errors import ConfigError, DataError, MissingExtraError
from trustsnn.models import build
from trustsnn.rng import Draws

torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")

# name, eps, norm, settings: those that the adapter is most used for, on 8x8 digits
SEVERAL = [
    ("FGSM", 0.2, "linf", {}),
    ("PGD", 0.2, "linf", {"alpha": 0.05, "steps": 4}),
    ("APGD", 0.2, "linf", {"steps": 4}),
    ("APGD", 1.5, "l2", {"steps": 4}),
    ("Square", 0.3, "linf", {"n_queries": 40}),
    ("PGDL2", 1.5, "l2", {"steps": 4, "alpha": 0.5}),
    ("CW", math.inf, "l2", {"steps": 20, "c": 10, "lr": 0.1}),
    ("DeepFool", math.inf, "l2", {"steps": 8}),
    ("Pixle", math.inf, "linf", {"restarts": 2, "max_iterations": 3}),
]


def attack_of(name: str, eps: float, norm: str, settings: dict, **more) -> TorchAttack:
    return torch_attack(f"torchattacks/{name}")(eps=eps, norm=norm, settings=settings, **more)


def correct(model, x, y):
    with frozen(model):
        return predict(model, x).argmax(1) == y


@pytest.fixture(scope="module")
def batch(digits_model, digits_test):
    """Eight samples, the last of which the model misclassifies by a changed label."""
    x, y = digits_test.batch(range(30))
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    rows = correct(digits_model, x, y).nonzero().squeeze(1)[:8]
    x, y = x[rows], y[rows].clone()
    y[-1] = (y[-1] + 1) % 10
    return x, y


IDS = [f"s{i}" for i in range(8)]


@pytest.mark.parametrize(("name", "eps", "norm", "settings"), SEVERAL)
def test_attacks_break_samples_repeat_and_do_not_depend_on_the_batch(name, eps, norm, settings, digits_model, batch):
    x, y = batch
    attack = attack_of(name, eps, norm, settings)
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    result = attack.run(digits_model, x, y, IDS)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numbers).all()
    adversarial = result.adversarial
    assert adversarial.shape == x.shape
    assert adversarial.dtype == x.dtype
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert size(adversarial - x, norm).max() <= eps * (1 + 1e-5)
    assert torch.equal(adversarial[-1], x[-1])
    assert result.outside.max() < 1e-5
    assert correct(digits_model, adversarial, y).sum() <= 5
    torch.manual_seed(5)
    back = [7, 3, 1]
    assert torch.equal(attack(digits_model, x[back], y[back], [IDS[i] for i in back]), adversarial[back])


@pytest.mark.parametrize(("name", "settings"), [("FGSM", {}), ("PGD", {"alpha": 0.05, "steps": 4, "random_start": False})])
def test_a_deterministic_attack_is_the_peers_own(name, settings, digits_model, batch):
    x, y = batch[0][:-1], batch[1][:-1]
    with frozen(digits_model):
        peer = getattr(torchattacks, name)(digits_model, eps=0.2, **settings)
        expected = peer(x, y)
    for batched in (False, True):
        got = attack_of(name, 0.2, "linf", settings, batched=batched)(digits_model, x, y)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_a_batched_attack_repeats_and_a_seed_changes_it(digits_model, batch):
    x, y = batch
    settings = {"steps": 2, "alpha": 0.02}
    first, again = (attack_of("PGD", 0.1, "linf", settings, batched=True)(digits_model, x, y, IDS) for _ in range(2))
    assert torch.equal(first, again)
    for batched in (True, False):
        a, b = (attack_of("PGD", 0.1, "linf", settings, batched=batched, seed=s)(digits_model, x, y, IDS) for s in (0, 1))
        assert not torch.equal(a, b)


def test_each_sample_has_its_own_draws(digits_model, batch):
    x, y = batch[0][:1].repeat(2, 1, 1, 1), batch[1][:1].repeat(2)
    for name, settings in (("PGD", {"steps": 1, "alpha": 0.01}), ("APGD", {"steps": 2})):
        one, other = attack_of(name, 0.1 if name == "PGD" else 0.6, "linf", settings)(digits_model, x, y, ["a", "b"])
        assert not torch.equal(one, other)


def test_a_sample_outside_the_ball_is_projected_and_reported(digits_model, batch):
    x, y = batch
    free = attack_of("DeepFool", math.inf, "l2", {"steps": 8}).run(digits_model, x, y, IDS)
    length = size(free.adversarial - x, "l2")
    eps = float(length[:-1].median())
    tight = attack_of("DeepFool", eps, "l2", {"steps": 8}).run(digits_model, x, y, IDS)
    torch.testing.assert_close(tight.outside, (length - eps).clamp_min(0), rtol=1e-4, atol=1e-5)
    assert (tight.outside > 1e-3).sum() >= 2
    assert size(tight.adversarial - x, "l2").max() <= eps * (1 + 1e-5)
    assert torch.equal(attack_of("DeepFool", 0.0, "l2", {"steps": 2})(digits_model, x, y), x)


def test_a_lost_sample_is_replaced_and_reported(digits_model, batch, monkeypatch):
    class Lost(torchattacks.GN):
        def forward(self, images, labels=None):
            images = images.clone()
            images[:] = float("nan")
            return images

    monkeypatch.setattr(torchattacks, "GN", Lost)
    result = attack_of("GN", math.inf, "linf", {}).run(digits_model, *batch)
    assert torch.equal(result.adversarial, batch[0])
    assert result.outside[:-1].isinf().all()


def test_the_model_is_left_as_it_was(batch):
    model = build("mlp", input_shape=(1, 8, 8), classes=10)
    model.train()
    next(iter(model.children())).eval()
    modes = [module.training for module in model.modules()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    y = predict_labels(model, batch[0])
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    for name in ("PGD", "JSMA"):
        attack_of(name, 0.1 if name == "PGD" else math.inf, "linf", {})(model, batch[0][:2], y[:2])
    assert len(seen) > 20
    assert not any(seen)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad and (parameter.grad == 1).all() for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_peer_switches_no_mode_back(batch):
    model = build("mlp", input_shape=(1, 8, 8), classes=10).train()
    with frozen(model):
        torchattacks.FGSM(adapter._Facade(model, Draws(0, "attack", ("a",)), 1))(batch[0][:1], batch[1][:1])
        assert not any(module.training for module in model.modules())


def predict_labels(model, x):
    with frozen(model):
        return predict(model, x).argmax(1)


def test_a_targeted_attack_reaches_the_drawn_class(digits_model, batch):
    x, y = batch[0][:3], batch[1][:3]
    adversarial = attack_of("PGD", 0.6, "linf", {"alpha": 0.05, "steps": 20}, targeted=True)(digits_model, x, y, IDS[:3])
    assert not correct(digits_model, adversarial, y).any()
    with pytest.raises(ConfigError, match="no targeted form"):
        attack_of("DeepFool", 0.6, "l2", {}, targeted=True)(digits_model, x, y)


def test_a_stochastic_model_is_attacked_the_same_twice_and_in_any_batch(poisson_model, batch):
    x, y = batch[0][:4], batch[1][:4]
    attack = attack_of("PGD", 0.3, "linf", {"steps": 2, "alpha": 0.1}, eot=2)
    whole = attack(poisson_model, x, y, IDS[:4])
    assert torch.equal(torch.cat([attack(poisson_model, x[i : i + 1], y[i : i + 1], [IDS[i]]) for i in range(4)]), whole)
    assert not torch.equal(attack_of("PGD", 0.3, "linf", {"steps": 2, "alpha": 0.1}, eot=1)(poisson_model, x, y, IDS[:4]), whole)


def test_a_stochastic_model_draws_anew_at_each_evaluation(poisson_model, batch):
    x, draws = batch[0][:1], Draws(0, "attack", ("a",))
    with frozen(poisson_model):
        facade, again = (adapter._Facade(poisson_model, draws, 1) for _ in range(2))
        first, second = facade(x), facade(x)
        assert not torch.equal(first, second)
        assert torch.equal(again(x), first)


def test_classes_reach_attacks_that_ask_for_them():
    """With four classes, APGD-T's nine targets of the ten that it assumes do not exist."""
    model = build("mlp", input_shape=(1, 8, 8), classes=4)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = attack_of("APGDT", 0.2, "linf", {"steps": 2})(model, x, predict_labels(model, x))
    assert size(result - x, "linf").max() <= 0.2 * (1 + 1e-5)


def test_the_list_is_that_of_torchattacks():
    assert set(TORCHATTACKS) == {f"torchattacks/{name}" for name in torchattacks.__all__} - {
        "torchattacks/MultiAttack",
        "torchattacks/LGV",
    }
    for name in TORCHATTACKS:
        kind = torch_attack(name)
        assert kind is ATTACKS.load(name)
        assert kind.name == name
        assert set(kind.norms) <= {"linf", "l2"}


def test_an_attack_describes_itself_in_plain_values():
    attack = attack_of("PGD", 0.1, "linf", {"steps": 3})
    threat = attack.describe()
    assert threat["attack"] == "torchattacks/PGD"
    assert threat["settings"] == {"steps": 3}
    assert canonical_json(threat) != canonical_json(attack_of("PGD", 0.1, "linf", {"steps": 4}).describe())
    free = attack_of("CW", math.inf, "l2", {})
    assert free.describe()["eps"] is None
    canonical_json(free.describe())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("PGD", {"eps": -1.0}, "eps of at least 0"),
        ("PGD", {"eps": math.nan}, "eps of at least 0"),
        ("PGD", {"eps": 0.1, "norm": "l2"}, "linf"),
        ("PGDL2", {"eps": 0.1}, "l2"),
        ("PGD", {"eps": 0.1, "loss": "margin"}, "loss of its own"),
        ("PGD", {"eps": 0.1, "settings": {"step": 3}}, "no setting step. Known: eps, alpha, steps, random_start"),
        ("PGD", {"eps": 0.1, "settings": {"eps": 3}}, "Give eps of"),
        ("APGD", {"settings": {"seed": 3}}, "Give seed of"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        torch_attack(f"torchattacks/{name}")(**settings)


def test_bad_batches_and_failures_of_the_peer_are_clear(digits_model, batch):
    x, y = batch
    attack = attack_of("FGSM", 0.1, "linf", {})
    with pytest.raises(DataError, match="NaN"):
        attack(digits_model, x * float("nan"), y)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        attack(digits_model, x * 3, y)
    with pytest.raises(ConfigError, match=r"TIFGSM failed .*\[1, 1, 8, 8\]: RuntimeError"):  # it is written for three channels
        attack_of("TIFGSM", 0.1, "linf", {})(digits_model, x, y)


@pytest.mark.parametrize("name", ["torchattacks/PGDX", "PGD", "torchattacks/LGV", "torchattacks/"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"Known: torchattacks/VANILA, .*torchattacks/Square"):
        torch_attack(name)


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    adapter._parameters.cache_clear()
    torch_attack.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r"pip install --no-deps torchattacks==3\.5\.1"):
            torch_attack("torchattacks/PGD")
        with pytest.raises(ConfigError, match="Unknown attack"):
            torch_attack("torchattacks/PGDX")
    finally:
        adapter._parameters.cache_clear()
        torch_attack.cache_clear()
