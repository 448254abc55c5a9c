"""The clients' losses as recipes of training: FedProx and FedLEC within `train`, and the model that they hold on to."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import arrays_of, difference, norm
from trustsnn.federated.local_loss import fedlec_loss, proximal
from trustsnn.federated.losses import FedLEC, FedProx, loss
from trustsnn.models import build
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig, train
from trustsnn.training.recipe import logits_of

CONFIG = TrainConfig(epochs=2, batch_size=32, optimizer="sgd", learning_rate=0.05, schedule="constant", augmentation="none")


def started(encoder="direct", **more):
    return build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, steps=2, encoder=encoder, **more)


@pytest.fixture(scope="module")
def some(digits_train):
    return digits_train.take(128)


@pytest.fixture(scope="module")
def three_classes(digits_train):
    """A client's samples, of the classes 0, 1 and 2 alone."""
    return digits_train.select(np.flatnonzero(digits_train.labels < 3)[:96])


def after(line, data, start, config=CONFIG):
    """The weights after training a copy of `start` so, and the rows of the log."""
    model = deepcopy(start)
    log = train(model, data, config, recipe=None if line is None else loss(line).recipe(model, data))
    return arrays_of(model), log


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fedprox_without_mu_is_plain_training_bit_for_bit(some, encoder, optimizer):
    start, config = started(encoder), TrainConfig(epochs=2, batch_size=32, optimizer=optimizer, learning_rate=0.02)
    plain, log = after(None, some, start, config)
    near, other = after("fedprox:mu=0", some, start, config)
    assert log == other
    assert all(np.array_equal(plain[name], near[name]) for name in plain)
    assert not all(np.array_equal(each, after("fedprox:mu=1", some, start, config)[0][name]) for name, each in plain.items())


def test_the_line_of_cross_entropy_is_plain_training(some):
    assert loss("cross-entropy").recipe(started(), some) is None


def test_the_larger_mu_the_nearer_the_clients_stay(some):
    """The parameters, that is: the statistics of the batch norms follow the samples."""
    start = started()
    names, before = dict(start.named_parameters()), arrays_of(start)
    moved = []
    for mu in (0, 0.3, 3, 30):
        change = difference(after(f"fedprox:mu={mu}", some, start)[0], before)
        moved.append(norm({name: change[name] for name in names}))
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.2 * moved[0]


def test_fedprox_holds_on_to_the_weights_of_the_start(some):
    """To copies of them: the training moves its own."""
    model = started()
    recipe = FedProx(mu=0.7).recipe(model, some)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1)
    x, y = (torch.from_numpy(each) for each in some.batch(np.arange(8)))
    draws = Draws(0, "test", some.ids[:8])
    ((found, logits),) = recipe.losses(model.eval(), x, y, draws)
    expected = cross_entropy(logits, y) + proximal(dict(model.named_parameters()), before, 0.7)
    assert torch.equal(found, expected)
    assert (found - cross_entropy(logits, y)).item() == pytest.approx(
        0.35 * 0.01 * sum(each.numel() for each in before.values()), rel=1e-3
    )
    found.backward()  # its gradient goes to the client's model alone
    assert all(each.grad is None for each in recipe.start.values())


def test_fedlec_trains_a_client_that_lacks_classes(three_classes):
    start = started()
    weights, log = after("fedlec", three_classes, start, TrainConfig(epochs=6, batch_size=16, learning_rate=0.01))
    assert all(np.isfinite(each).all() for each in weights.values())
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["train_accuracy"] > 0.9


def test_fedlec_without_its_weights_is_calibrated_cross_entropy_and_no_more(three_classes):
    model = started().eval()
    x, y = (torch.from_numpy(each) for each in three_classes.batch(np.arange(16)))
    ((found, logits),) = (
        FedLEC(theta=0.0, distillation=0.0).recipe(model, three_classes).losses(model, x, y, Draws(0, "test", ()))
    )
    share = torch.from_numpy(np.bincount(three_classes.labels, minlength=10) / len(three_classes)).float()
    assert found.item() == pytest.approx(cross_entropy(logits + (share + 1e-9).log(), y).item(), rel=1e-5)


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
def test_the_teacher_of_fedlec_is_the_global_model_as_it_came_and_in_evaluation(three_classes, encoder):
    model = started(encoder)
    train(model, three_classes, CONFIG)  # its batch norms have statistics to lose
    model.train()
    recipe = FedLEC(theta=0.3, distillation=0.5).recipe(model, three_classes)
    came = deepcopy(model).eval()
    kept = {name: each.clone() for name, each in recipe.start.state_dict().items()}
    assert not recipe.start.training
    assert not any(module.training for module in recipe.start.modules())
    assert not any(each.requires_grad for each in recipe.start.parameters())
    assert model.training
    x, y = (torch.from_numpy(each) for each in three_classes.batch(np.arange(24)))
    draws = Draws(0, "test", three_classes.ids[:24])
    ((found, logits),) = recipe.losses(model, x, y, draws)
    with torch.no_grad():
        told = logits_of(came, x, draws)
    counts = torch.from_numpy(np.bincount(three_classes.labels, minlength=10))
    assert torch.equal(found, fedlec_loss(logits, y, told, counts, theta=0.3, distillation=0.5))
    found.backward()
    after(None, three_classes, model)
    train(model, three_classes, CONFIG, recipe=recipe)
    now = recipe.start.state_dict()
    assert all(torch.equal(kept[name], now[name]) for name in kept)


def test_the_distillation_keeps_what_the_global_model_believes_of_absent_classes(digits_train, three_classes):
    start = started()
    train(start, digits_train, TrainConfig(epochs=3, batch_size=64, learning_rate=0.01))
    x = torch.from_numpy(three_classes.batch(np.arange(len(three_classes)))[0])

    def forgotten(line):
        model = deepcopy(start)
        train(model, three_classes, replace(CONFIG, epochs=6), recipe=loss(line).recipe(model, three_classes))
        with torch.no_grad():
            told, believed = (each.eval()(x)[:, 3:].log_softmax(1) for each in (start, model))
        return kl_div(believed, told, reduction="batchmean", log_target=True).item()

    assert forgotten("fedlec:theta=0:distillation=1") < 0.5 * forgotten("fedlec:theta=0:distillation=0")


def test_what_a_recipe_says_of_itself(some):
    model = started()
    assert loss("fedprox:0.25").recipe(model, some).describe() == {"name": "fedprox", "mu": 0.25}
    assert loss("fedlec").recipe(model, some).describe() == {"name": "fedlec", "theta": 0.005, "distillation": 0.1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fedprox:mu=-1", "mu of the loss 'fedprox' as a number from 0, got -1"),
        ("fedprox:mu=nan", "mu of the loss 'fedprox' as a number from 0"),
        ("fedprox:theta=1", "loss 'fedprox' has no setting 'theta'. Known: mu"),
        ("fedlec:theta=-1", "theta of the loss 'fedlec' as a number from 0"),
        ("cross-entropy:1", "Expected settings as name=value"),
        ("fedprx", "Unknown loss 'fedprx'. Known: cross-entropy, fedprox, fedlec. Did you mean 'fedprox'"),
    ],
)
def test_a_mistake_is_one_message(line, message):
    with pytest.raises(ConfigError, match=message):
        loss(line)
