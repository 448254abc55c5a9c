"""Sparse synapses: what is masked stays 0, Grad R is what a slow loop computes, and both resume, save and refuse."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import trustsnn
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.models.catalogue import MODELS
from trustsnn.models.onestep import build_onestep
from trustsnn.temporal import S4NN
from trustsnn.training import GradR, TrainConfig, count_synapses, magnitude_masks, masked, random_masks, train
from trustsnn.training.compress import SPARSE, train_sparse
from trustsnn.training.sparse import synaptic_layers


def network(name="mlp", **arguments):
    return build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, **arguments)


def gone(model):
    rows = count_synapses(model)
    return 1 - sum(row.active for row in rows) / sum(row.synapses for row in rows)


def sgd(model, decay=0.0, momentum=0.0):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum, weight_decay=decay)


def adamw(model, decay=0.1):
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=decay)


def steps(model, optimizer, data, count=4):
    x, y = map(torch.from_numpy, data.batch(range(32)))
    for _ in range(count):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("how", [random_masks, magnitude_masks])
@pytest.mark.parametrize("optimizer", [adamw, lambda model: sgd(model, decay=0.1, momentum=0.9)], ids=["adamw", "sgd"])
def test_masked_weights_stay_zero_and_the_others_learn(how, optimizer, digits_train):
    model = network("conv")
    masks = how(model, 0.9)
    before = {name: layer.weight.detach().clone() for name, layer in synaptic_layers(model).items()}
    with masked(model, masks):
        used = optimizer(model)
        steps(model, used, digits_train)
        for name, layer in synaptic_layers(model).items():
            original, away = layer.parametrizations.weight.original, ~masks[name]
            kept = [value for value in used.state[original].values() if value is not None and value.shape == original.shape]
            assert kept
            for tensor in (layer.weight, original, original.grad, *kept):
                assert (tensor[away] == 0).all()
    for name, layer in synaptic_layers(model).items():
        assert type(layer.weight) is torch.nn.Parameter
        assert (layer.weight[~masks[name]] == 0).all()
        assert not torch.equal(layer.weight[masks[name]], before[name][masks[name]])


def test_a_masked_network_computes_what_its_zeros_say(digits_test):
    model, zeros = network("conv"), network("conv")
    masks = random_masks(model, 0.5, seed=3)
    with torch.no_grad():
        for name, layer in synaptic_layers(zeros).items():
            layer.weight.mul_(masks[name])
    x = torch.from_numpy(digits_test.batch(range(16))[0])
    with masked(model, masks):
        assert torch.equal(model(x), zeros(x))


def test_masks_take_the_share_away():
    model = network("conv")
    for name, mask in random_masks(model, 0.95).items():
        count = mask.numel()
        assert int(mask.sum()) == count - round(0.95 * count), name
    small = torch.nn.Linear(3, 1)
    assert int(random_masks(small, 0.99)[""].sum()) == 1
    assert torch.equal(random_masks(model, 0.9, 1)["layers.0"], random_masks(network("conv"), 0.9, 1)["layers.0"])
    assert not torch.equal(random_masks(model, 0.9, 1)["layers.0"], random_masks(model, 0.9, 2)["layers.0"])
    masks = magnitude_masks(model, 0.95)
    weights = {name: layer.weight.detach().double().numpy() for name, layer in synaptic_layers(model).items()}
    scores = {
        name: np.array([w * w / (weight[abs(weight) >= abs(w)] ** 2).sum() for w in weight.flat]).reshape(weight.shape)
        for name, weight in weights.items()
    }
    kept = np.concatenate([scores[name][mask.numpy()] for name, mask in masks.items()])
    away = np.concatenate([scores[name][~mask.numpy()] for name, mask in masks.items()])
    assert len(away) == round(0.95 * (len(kept) + len(away)))
    assert kept.min() >= away.max() * (1 - 1e-9)
    assert all(mask.any() for mask in magnitude_masks(model, 0.995).values())


def test_magnitude_brings_no_zero_back():
    model = network("conv")
    with masked(model, random_masks(model, 0.9)):
        pass
    masks = magnitude_masks(model, 0.2)
    assert all(torch.equal(mask, synaptic_layers(model)[name].weight != 0) for name, mask in masks.items())


def test_a_masked_model_is_saved_outside_alone(tmp_path):
    model = network()
    with masked(model, random_masks(model, 0.5)), pytest.raises(ConfigError, match="outside `masked`"):
        trustsnn.save(model, tmp_path / "inside")
    assert not (tmp_path / "inside").exists()
    assert gone(trustsnn.load(trustsnn.save(model, tmp_path / "outside"))) == gone(model)


@pytest.mark.parametrize("name", [name for name in MODELS if name in ("mlp", "conv") or name.endswith("-small")])
def test_every_family_can_be_masked(name):
    model = build(name, input_shape=(3, 16, 16), classes=10, steps=2)
    with masked(model, random_masks(model, 0.5)):
        model(torch.rand(2, 3, 16, 16)).sum().backward()
    assert 0.49 < gone(model) < 0.51
    assert all("parametrizations" not in key for key in model.state_dict())


def slow_grad_r(model, optimizer, data, given, count):
    """Grad R step by step in plain torch: theta beside the network, its gradient put in by hand, then the prior."""
    layers = synaptic_layers(model)
    x, y = map(torch.from_numpy, data.batch(range(32)))
    signs = {name: layer.weight.detach().sign() for name, layer in layers.items()}
    thetas = {name: torch.nn.Parameter(layer.weight.detach().abs()) for name, layer in layers.items()}
    others = [p for p in model.parameters() if not any(p is layer.weight for layer in layers.values())]
    used = optimizer([*others, *thetas.values()])
    mu = float(torch.log(torch.tensor(2 * (1 - given.sparsity), dtype=torch.float64)) / given.alpha)
    for _ in range(count):
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.copy_(signs[name] * thetas[name].clamp(min=0))
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        for name, layer in layers.items():
            thetas[name].grad = signs[name] * layer.weight.grad
        used.step()
        with torch.no_grad():
            for theta in thetas.values():
                theta -= used.param_groups[0]["lr"] * given.alpha * torch.where(theta > mu, 1.0, -1.0)
    return {name: (theta.detach(), signs[name] * theta.detach().clamp(min=0)) for name, theta in thetas.items()}


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("given", [GradR(0.9, 0.1), GradR(0.501, 0.1)], ids=["above mu", "on both sides of mu"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_grad_r_is_the_slow_loop(optimizer, given, digits_train):
    fast, slow = network(), network()
    make = OPTIMIZERS[optimizer]
    with given.applied(fast):
        steps(fast, make(fast.parameters()), digits_train, 6)
        thetas = [layer.parametrizations.weight.original.detach().clone() for layer in synaptic_layers(fast).values()]
    expected = slow_grad_r(slow, make, digits_train, given, 6)
    assert 0.02 < gone(fast) < 0.98
    assert any(float(theta.min()) < given.mu for theta in thetas) == (given.sparsity < 0.6)
    for theta, (name, layer) in zip(thetas, synaptic_layers(fast).items(), strict=True):
        torch.testing.assert_close(theta, expected[name][0], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(layer.weight.detach(), expected[name][1], rtol=1e-5, atol=1e-7)


def test_dormant_synapses_come_back():
    layer = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1], [-0.1]]))
    seen = []
    with GradR(0.9, 0.1).applied(layer):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for up in (-1.0, -1.0, 1.0, 1.0, 1.0):
            optimizer.zero_grad()
            (layer(torch.ones(1, 1)) * torch.tensor([-up, up])).sum().backward()
            optimizer.step()
            seen.append(layer.weight.detach().flatten().tolist())
    # theta: 0.1, then -0.01, -0.12, -0.03, 0.06, 0.15 by 0.1 of the loss, up or down, and 0.01 of the prior, down
    expected = torch.tensor([[0, 0], [0, 0], [0, 0], [0.06, -0.06], [0.15, -0.15]])
    torch.testing.assert_close(torch.tensor(seen), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("hold", "reached"), [(True, 0.6), (False, 1.0)])
def test_the_prior_rests_at_the_target_if_asked(hold, reached):
    layer = torch.nn.Linear(100, 10)
    with GradR(0.6, 1.0, hold).applied(layer):
        optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
        for _ in range(120):
            layer(torch.zeros(1, 100)).sum().backward()
            optimizer.step()
    assert gone(layer) == pytest.approx(reached, abs=0.02)


def test_the_prior_ends_with_the_model():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    with GradR(0.9, 0.5).applied(one):
        optimizer = torch.optim.SGD([*one.parameters(), *other.parameters()], lr=0.1)
        for parameter in (*one.parameters(), *other.parameters()):
            parameter.grad = torch.zeros_like(parameter)
        before = other.weight.detach().clone()
        optimizer.step()
    assert torch.equal(other.weight, before)
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    one.weight.grad, before = torch.zeros_like(one.weight), one.weight.detach().clone()
    optimizer.step()
    assert torch.equal(one.weight, before)


def test_the_context_is_left_behind_an_error():
    model = network()
    with pytest.raises(KeyboardInterrupt), masked(model, random_masks(model, 0.5)):
        raise KeyboardInterrupt
    assert set(model.state_dict()) == set(network().state_dict())


@pytest.mark.parametrize("how", SPARSE)
def test_sparse_training_reaches_its_share_resumes_and_is_saved(how, tmp_path, digits_train):
    data, config = digits_train.take(200), TrainConfig(epochs=4, batch_size=50, learning_rate=0.01)
    unbroken, broken = network(), network()
    log = train_sparse(unbroken, data, config, 0.9, how, folder=tmp_path / "a")
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    assert 0.899 < gone(unbroken) < 0.901 + 0.02 * (how == "gradr")

    class Killed(Exception):
        pass

    for at in ((1, 2), (3, 3)):

        def kill(progress, at=at):
            if (progress.epoch, progress.step) == at:
                raise Killed

        with pytest.raises(Killed):
            train_sparse(broken, data, config, 0.9, how, folder=tmp_path / "b", on_step=kill)
        broken = network()
    seen = []
    assert train_sparse(broken, data, config, 0.9, how, folder=tmp_path / "b", on_epoch=seen.append) == log
    assert [row["epoch"] for row in seen] == [4]
    assert model_hash(broken) == model_hash(unbroken)
    trustsnn.save(broken, tmp_path / "saved")
    assert count_synapses(trustsnn.load(tmp_path / "saved")) == count_synapses(unbroken)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--sparsity", "0.8"], 0, "80.00% of 8,832 synapses are gone. Left: layers.1 "),
        (["--sparsity", "0.8", "--sparse", "random"], 0, "layers.1 819 of 4,096, layers.4 "),
        (["--sparsity", "95"], 2, "in [0, 1), got 95.0"),
        (["--sparsity", "0.8", "--sparse", "lottery"], 2, "one of gradr, magnitude, random"),
    ],
)
def test_sparse_training_from_the_command_line(options, code, message, tmp_path, here):
    arguments = ["--model", "mlp", "--data", "digits", "--channels", "0.25", "--epochs", "2", "--out", "m", "--quiet"]
    done = here("train", "bptt", *arguments, *options)
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if not code:
        assert gone(trustsnn.load(tmp_path / "m")) == pytest.approx(0.8, abs=1e-3)
        assert json.loads((tmp_path / "m" / "config.json").read_text())["training"]["sparse"]["sparsity"] == 0.8


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda m: masked(m, random_masks(m, 0.9, 0)), lambda m: masked(m, random_masks(m, 0.9, 1))),
        (lambda m: GradR(0.9, 0.3).applied(m), lambda m: GradR(0.9, 0.4).applied(m)),
        (lambda m: masked(m, random_masks(m, 0.9, 0)), lambda m: nullcontext()),
        (lambda m: nullcontext(), lambda m: GradR(0.9).applied(m)),
    ],
)
def test_a_state_of_other_synapses_is_refused(one, other, tmp_path, digits_train):
    data, config = digits_train.take(100), TrainConfig(epochs=1, batch_size=50)
    first, second = network(), network()
    with one(first):
        train(first, data, config, folder=tmp_path)
    with other(second), pytest.raises(ConfigError, match="holds a training run of other settings"):
        train(second, data, config, folder=tmp_path)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize(
    "refuses",
    [
        lambda p: random_masks(network(), p),
        lambda p: magnitude_masks(network(), p),
        lambda p: GradR(p),
        lambda p: train_sparse(network(), None, TrainConfig(), p, "random"),
    ],
)
def test_a_bad_sparsity_is_refused(refuses, sparsity):
    with pytest.raises(ConfigError, match=f"Expected a sparsity.*got {sparsity}"):
        refuses(sparsity)


@pytest.mark.parametrize(
    ("refuses", "message"),
    [
        (lambda m: GradR(0.4), r"in \[0.5, 1\), got 0.4"),
        (lambda m: GradR(0.9, 0.0), "positive alpha, got 0.0"),
        (lambda m: train_sparse(m, None, TrainConfig(), 0.9, "lottery"), "one of gradr, magnitude, random, got 'lottery'"),
        (lambda m: train_sparse(m, None, TrainConfig(epochs=1), 0.9), "at least 2 epochs"),
        (lambda m: masked(m, {"layers.99": torch.ones(1).bool()}).__enter__(), "got one for 'layers.99'"),
        (lambda m: masked(m, {"layers.1": torch.ones(3).bool()}).__enter__(), r"a bool mask \[64, 64\] .* layers.1, got .*\[3\]"),
        (lambda m: masked(m, {"layers.1": torch.ones(64, 64)}).__enter__(), "got torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(refuses, message):
    with pytest.raises(ConfigError, match=message):
        refuses(network())


@pytest.mark.parametrize("how", SPARSE)
@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: S4NN((1, 8, 8), 10, hidden=12), "S4NN, which has none"),
        (lambda: build_onestep("onestep-rnn", input_shape=(1, 8, 8), classes=10, channels=0.25), r"lstm \(LSTM\)"),
    ],
)
def test_synapses_that_no_mask_reaches_are_refused(make, got, how, digits_train):
    model = make()
    before = model_hash(model)
    with pytest.raises(ConfigError, match=f"those of convolutions and linear layers, got .*{got}"):
        train_sparse(model, digits_train, TrainConfig(epochs=2), 0.9, how)
    assert model_hash(model) == before
