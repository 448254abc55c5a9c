"""Planted faults that an audit must name, and honest networks on which it must find none."""

from __future__ import annotations

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.attacks import APGD, PGD
from trustsnn.blocks import frozen, predict
from trustsnn.models import build
from trustsnn.neurons import STBP, SpikingNeuron, Surrogate
from trustsnn.runners import findings
from trustsnn.runners.rounding import of_input
from trustsnn.temporal import S4NN
from trustsnn.training import TrainConfig, train


def audited(model, data, samples=100, **settings):
    run = trustsnn.audit(model, data, samples=samples, quiet=True, **{"eps": [0.15], **settings})
    return run, {finding["type"] for finding in run.findings}


def test_a_sharp_surrogate_is_named_and_broken(digits_model, digits_test):
    model = copy.deepcopy(digits_model)
    for module in model.modules():
        if isinstance(module, SpikingNeuron):
            module.estimator = STBP(Surrogate("rectangular", 0.002))
    run, types = audited(model, digits_test)
    x, y = (torch.from_numpy(values) for values in digits_test.take(100, 0).batch(range(100)))
    adversarial = PGD(eps=0.15, steps=10)(model, x, y)
    with frozen(model):
        believed = float((predict(model, adversarial).argmax(1) == y).float().mean())
    assert believed - run.robust_accuracy["linf", 0.15].value >= 0.5
    assert "gradient-masking" in types
    assert run.exit_code == 3


def sharpened(digits_model):
    model = copy.deepcopy(digits_model)
    for module in model.modules():
        if isinstance(module, SpikingNeuron):
            module.estimator = STBP(Surrogate("atan", 0.002))
    return model


@pytest.mark.parametrize(
    ("attacks", "named"),
    [
        (("fgsm", "pgd"), {"gradient-masking"}),
        (("pgd", "apgd", "transfer"), {"gradient-masking", "transfer-beats-white-box"}),
        (({"attack": "square", "settings": {"queries": 500}}, "pgd"), {"gradient-masking", "black-box-beats-white-box"}),
    ],
)
def test_a_sharp_surrogate_is_named_whatever_list_of_attacks_is_asked_for(attacks, named, digits_model, digits_test):
    """Without the ensemble, which would break the network, and in any order."""
    for order in (attacks, attacks[::-1]):
        run, types = audited(
            sharpened(digits_model), digits_test, attacks=[each if isinstance(each, dict) else {"attack": each} for each in order]
        )
        assert named <= types
        assert run.exit_code == 3


class Believing(nn.Module):
    """Has the true gradient on the samples that it knows, and a wrong one beside them."""

    def __init__(self, model, x):
        super().__init__()
        self.model, self.known = model, {each.numpy().tobytes() for each in x}
        self.decoy = nn.Linear(64, 10)

    def forward(self, x):
        true = torch.tensor([each.detach().numpy().tobytes() in self.known for each in x])[:, None]
        decoy = self.decoy(x.flatten(1))
        return torch.where(true, self.model(x), self.model(x.detach()) + decoy - decoy.detach())


def test_one_step_is_held_against_many_in_any_order(digits_model, digits_test):
    x, _ = (torch.from_numpy(values) for values in digits_test.take(100, 0).batch(range(100)))
    model = trustsnn.wrap(Believing(digits_model, x), domain="image", time_steps=4, input_shape=(1, 8, 8), classes=10)
    attacks = [{"attack": "fgsm"}, {"attack": "pgd", "settings": {"random_start": False}}]
    for order in (attacks, attacks[::-1]):
        run, types = audited(model, digits_test, attacks=order)
        assert "one-step-beats-iterative" in types
        assert run.exit_code == 3


def test_steps_are_asked_about_where_there_are_no_more(digits_model, digits_test):
    few = [{"attack": "pgd", "settings": {"steps": steps}} for steps in (1, 2)]
    assert "more-steps-still-gain" in audited(digits_model, digits_test, attacks=few)[1]
    many = [{"attack": "pgd", "settings": {"steps": steps}} for steps in (1, 2, 40, 80)]
    assert "more-steps-still-gain" not in audited(digits_model, digits_test, attacks=many)[1]


class Leaking(nn.Module):
    """Keeps a trace of what it has seen."""

    def __init__(self, model):
        super().__init__()
        self.model, self.trace = model, 0.0

    def forward(self, x):
        logits = self.model(x)
        self.trace = 0.5 * self.trace + logits.detach().mean()
        return logits + self.trace * torch.arange(logits.shape[1])


class Noisy(nn.Module):
    """Adds noise that no generator of the caller decides."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x + 0.1 * torch.randn_like(x)).clamp(0, 1))


class Rounding(nn.Module):
    """Rounds pixels to steps, or cuts them off, and passes the gradient straight through."""

    def __init__(self, model, how=torch.round, steps=255):
        super().__init__()
        self.model, self.how, self.steps = model, how, steps

    def forward(self, x):
        return self.model(x + (self.how(x * self.steps) / self.steps - x).detach())


def rounding(how, steps):
    return partial(Rounding, how=how, steps=steps)


class Scaling(nn.Module):
    """Scales its input in place, beyond [0, 1]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.data.mul_(1.5))


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (Leaking, "contract-repeat"),
        (Noisy, "contract-repeat"),
        (Rounding, "input-rounded"),
        (rounding(torch.floor, 255), "input-rounded"),
        (rounding(torch.floor, 256), "input-rounded"),
        (rounding(torch.round, 1), "input-rounded"),
        (rounding(torch.round, 15), "input-rounded"),
        (rounding(torch.floor, 10), "input-rounded"),
        (Scaling, "contract-input"),
    ],
)
def test_a_faulty_forward_is_named(fault, named, digits_model, digits_test):
    model = trustsnn.wrap(fault(digits_model), domain="image", time_steps=4, input_shape=(1, 8, 8), classes=10)
    run, types = audited(model, digits_test, samples=40, attacks=[])
    assert named in types
    assert run.exit_code == 3


class Coarse(nn.Module):
    """Says the class and nothing else."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return logits + (nn.functional.one_hot(logits.argmax(1), 10) - logits).detach()


def test_a_bundled_network_that_codes_pixels_into_times_is_not_named_for_it(digits_test):
    model = S4NN(input_shape=(1, 8, 8), classes=10, hidden=12, last=32, threshold=20.0)
    x = torch.from_numpy(digits_test.batch(range(32))[0])
    with frozen(model):
        assert of_input(model, x)
    assert not [each for each in findings.of_the_model(model, x, 10) if each["type"] == "input-rounded"]


def test_rounding_is_seen_through_spike_counts(digits_train, digits_test):
    model = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.5, readout="spike-count", steps=8)
    train(model, digits_train, TrainConfig(epochs=2, batch_size=64, learning_rate=4e-3))
    x = torch.from_numpy(digits_test.batch(range(32))[0])
    with frozen(model):
        assert not of_input(model, x)
        for steps in (7, 31):
            (found,) = of_input(Rounding(model, steps=steps), x)
            assert found["evidence"]["levels"] == steps + 1


def test_outputs_of_few_levels_are_no_rounded_inputs(digits_model, digits_test):
    model = trustsnn.wrap(Coarse(digits_model), domain="image", time_steps=4, input_shape=(1, 8, 8), classes=10)
    x = torch.from_numpy(digits_test.batch(range(64))[0])
    noise = 0.4 / 255 * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1)
    with frozen(model):
        assert torch.equal(predict(model, x), predict(model, (x + noise).clamp(0, 1)))
        assert not of_input(model, x)
    _, types = audited(model, digits_test, attacks=[])
    assert "input-rounded" not in types


def test_tied_logits_are_named(digits_train, digits_test):
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25, readout="spike-count", steps=2)
    train(model, digits_train, TrainConfig(epochs=1, batch_size=64, learning_rate=4e-3))
    run, types = audited(model, digits_test, attacks=[])
    assert "tied-logits" in types
    assert run.exit_code == 3


class Shuffled(torch.autograd.Function):
    """The identity, whose gradient has its pixels in another order."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        order = torch.randperm(gradient[0].numel(), generator=torch.Generator().manual_seed(0))
        return gradient.flatten(1)[:, order].view_as(gradient)


class Misleading(nn.Module):
    """Computes what the model does, with a gradient at the input that misleads every estimator alike."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(Shuffled.apply(x))


@pytest.mark.parametrize("attacks", [None, [{"attack": "pgd"}]])
def test_a_gradient_that_misleads_every_estimator_is_named_at_a_small_eps(attacks, digits_model, digits_test):
    model = trustsnn.wrap(Misleading(digits_model), domain="image", time_steps=4, input_shape=(1, 8, 8), classes=10)
    run, types = audited(model, digits_test, eps=[0.02], attacks=attacks)
    assert "black-box-beats-white-box" in types
    assert run.exit_code == 3


def test_an_honest_network_raises_no_finding(digits_model, digits_test):
    for attacks in (None, [{"attack": "pgd"}, {"attack": "fgsm"}, {"attack": "transfer"}]):
        run, types = audited(digits_model, digits_test, eps=[0.05, 0.15], attacks=attacks)
        assert not types
        assert run.verdict == "pass"
    assert not audited(digits_model, digits_test, samples=40, eps=[2, 4], norms=["l0"])[1]


@pytest.mark.slow
def test_ten_honest_networks_raise_no_finding(digits_train, digits_test):
    for seed in range(10):
        model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5, seed=seed)
        train(model, digits_train, TrainConfig(epochs=8, batch_size=64, learning_rate=4e-3, seed=seed))
        _, types = audited(model, digits_test, samples=200, eps=[0.05, 0.1, 0.15], seed=seed)
        assert not types, f"seed {seed}"


@pytest.mark.parametrize(
    ("fewer", "more", "steps"),
    [
        (PGD(eps=0.1, steps=10), PGD(eps=0.1, steps=20), (10, 20)),  # with steps of half the size
        (APGD(eps=0.1, steps=10), APGD(eps=0.1, steps=20), (10, 20)),
        (PGD(eps=0.1, steps=10), PGD(eps=0.1, steps=30), (10, 30)),
        (PGD(eps=0.1, steps=20), PGD(eps=0.1, steps=10), None),
        (PGD(eps=0.1, steps=10), PGD(eps=0.1, steps=20, loss="margin"), None),
        (PGD(eps=0.1, steps=10, step_size=0.1), PGD(eps=0.1, steps=20), None),
        (PGD(eps=0.1, steps=10), APGD(eps=0.1, steps=20), None),
    ],
)
def test_an_attack_is_held_against_itself_with_fewer_steps(fewer, more, steps):
    assert findings._more_steps(fewer, more) == steps


def test_the_ensemble_says_who_broke_what(digits_model, digits_test):
    run, _ = audited(digits_model, digits_test)
    cell = next(cell for cell in run.summary["cells"] if cell["cell"]["threat"]["attack"] == "snn-autoattack")
    members = cell["diagnostics"]["members"]
    assert members[0]["member"] == "APGD-CE-10 through wide atan"
    assert all(later["tried"] <= row["tried"] - row["broken"] for row, later in pairwise(members))
    import pandas as pd

    table = pd.read_parquet(run.folder / "samples.parquet")
    mine = table[table["cell"] == cell["key"]]
    assert mine["broken_by"].notna().sum() == sum(row["broken"] for row in members)
    assert not mine[mine["broken_by"].notna()]["correct"].any()
    page = run.report.read_text()
    assert "What the ensemble broke" in page
    assert all(row["member"] in page for row in members)
