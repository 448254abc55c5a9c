"""Training: it learns, is deterministic, resumes bit for bit, and refuses what does not fit."""

from __future__ import annotations

import pytest
import torch

from trustsnn.errors import ConfigError, ModelContractError, UnsafeArtifactError
from trustsnn.models import build
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig, accuracy, train
from trustsnn.training.augment import augment

SHAPE = {"input_shape": (1, 8, 8), "classes": 10}


def network(**arguments):
    return build("mlp", **SHAPE, channels=0.25, **arguments)


def state_of(model):
    return torch.cat([v.double().flatten() for v in model.state_dict().values()])


def test_digits_are_learnt(digits_model, digits_test):
    assert accuracy(digits_model, digits_test)["value"] > 0.96


def test_poisson_digits_are_learnt(poisson_model, digits_test):
    assert accuracy(poisson_model, digits_test)["value"] > 0.85


def test_accuracy_does_not_depend_on_the_batch_size(poisson_model, digits_test):
    figures = [accuracy(poisson_model, digits_test, batch_size=size) for size in (1, 7, 64, 1000)]
    assert all(figure == figures[0] for figure in figures)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_is_deterministic_and_resumes_bit_for_bit(optimizer, tmp_path, digits_train):
    data = digits_train.take(300)
    config = TrainConfig(
        epochs=4, batch_size=50, optimizer=optimizer, learning_rate=0.01, augmentation="shift", label_smoothing=0.1
    )
    unbroken, broken = network(learn=True), network(learn=True)
    log = train(unbroken, data, config, folder=tmp_path / "a")

    class Killed(Exception):
        pass

    def kill(progress):
        if (progress.epoch, progress.step) == (2, 3):
            raise Killed

    with pytest.raises(Killed):
        train(broken, data, config, folder=tmp_path / "b", on_step=kill)
    resumed = network(learn=True)
    seen = []
    assert train(resumed, data, config, folder=tmp_path / "b", on_epoch=seen.append) == log
    assert [row["epoch"] for row in seen] == [3, 4]
    assert torch.equal(state_of(resumed), state_of(unbroken))
    for name in ("state.safetensors", "log.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = network(learn=True)
    train(other, data, TrainConfig(**{**config.__dict__, "seed": 1}))
    assert not torch.equal(state_of(other), state_of(unbroken))


def test_a_state_of_other_settings_is_refused(tmp_path, digits_train):
    data = digits_train.take(100)
    train(network(), data, TrainConfig(epochs=1, batch_size=50), folder=tmp_path)
    with pytest.raises(ConfigError, match="config differ"):
        train(network(), data, TrainConfig(epochs=2, batch_size=50), folder=tmp_path)


def test_a_state_of_another_start_is_refused(tmp_path, digits_train):
    data, config = digits_train.take(100), TrainConfig(epochs=1, batch_size=50)
    train(network(), data, config, folder=tmp_path, start={"ann": "a"})
    train(network(), data, config, folder=tmp_path, start={"ann": "a"})
    for other in ({"ann": "b"}, None):
        with pytest.raises(ConfigError, match="holds a training run of other settings"):
            train(network(), data, config, folder=tmp_path, start=other)


@pytest.mark.parametrize("damage", ["truncate", "flip", "trail"])
def test_a_damaged_state_is_refused(damage, tmp_path, digits_train):
    data, config = digits_train.take(100), TrainConfig(epochs=1, batch_size=50)
    train(network(), data, config, folder=tmp_path)
    path = tmp_path / "state.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
    path.write_bytes({"truncate": content[:-10], "flip": content, "trail": content + b"x"}[damage])
    with pytest.raises(UnsafeArtifactError, match="not a whole training state"):
        train(network(), data, config, folder=tmp_path)


def test_learnable_leak_and_threshold_move(digits_train):
    model = network(learn=True)
    train(model, digits_train.take(300), TrainConfig(epochs=3, batch_size=50, learning_rate=0.01))
    moved = {k: float(v) for k, v in model.state_dict().items() if k.endswith(("leak", "threshold"))}
    assert len(moved) == 4
    assert all(abs(value - start) > 1e-3 for (k, value) in moved.items() for start in [0.5 if "leak" in k else 1.0])


def test_divergence_is_named(digits_train):
    model = network(norm="none")
    with torch.no_grad():
        model.layers[-1].weight.fill_(torch.inf)
        model.layers[-1].bias.fill_(torch.inf)
    with pytest.raises(ModelContractError, match="Lower the learning rate"):
        train(model, digits_train.take(100), TrainConfig(epochs=1, batch_size=50))


def test_a_weight_that_is_no_number_is_named_though_the_loss_is_one(digits_train):
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25)
    with torch.no_grad():
        model.layers[0].weight[0, 0, 0, 0] = torch.nan  # its neurons do not spike: a comparison with NaN does not hold
    with pytest.raises(ModelContractError, match=r"The parameter layers\.0\.weight is not finite after epoch 1"):
        train(model, digits_train.take(100), TrainConfig(epochs=2, batch_size=50))


def test_data_that_does_not_fit_is_refused(digits_train):
    with pytest.raises(ConfigError, match="does not fit the model"):
        train(build("mlp", input_shape=(1, 9, 9), classes=10), digits_train)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"optimizer": "lbfgs"},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"label_smoothing": 1.0},
        {"augmentation": "cutmix"},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError, match="Expected"):
        TrainConfig(**bad)


def test_augmentation_moves_and_mirrors_by_sample():
    x = torch.zeros(40, 1, 16, 16)
    x[:, :, 8, 5] = 1
    draws = Draws(0, "augment", tuple(map(str, range(40))))
    moved = augment("shift-flip", x, draws)
    places = {tuple(p.nonzero()[0].tolist()[1:]) for p in moved}
    assert moved.sum() == 40
    assert {p[0] for p in places} == {6, 7, 8, 9, 10}
    assert {p[1] for p in places} <= {3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
    assert any(p[1] > 7 for p in places)
    assert torch.equal(augment("shift-flip", x[:3], draws.select([0, 1, 2])), moved[:3])
    assert augment("none", x, draws) is x
