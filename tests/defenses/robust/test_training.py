"""Recipes in training: they learn, repeat and resume bit for bit, and refuse what does not fit."""

from __future__ import annotations

import json

import pytest
import torch

from trustsnn.checkpoint import model_hash
from trustsnn.defenses.robust import RECIPES, RECIPES_FOR_EVENTS, parse, recipe
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.neurons.estimator import neurons_of
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig, accuracy, train
from trustsnn.training.sparse import masked, random_masks

LINES = ["hire", "at:steps=2", "trades:steps=1", "rat", "sr", "stog", "feel", "mpd-sgr", "tgo", "mppd-tv:steps=1", "noise"]
LINES += ["gaussian-noise:sigma=0.1", "s-ibp:eps=0.01:ramp=2", "robust-ann:steps=1"]
CONFIG = TrainConfig(epochs=2, batch_size=24, learning_rate=0.02)


def network(**options):
    return build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.25, learn=True, **options)


def trained(line, data, folder, **options):
    chosen = parse(line)
    model = chosen.prepared(network(), data.take(700), CONFIG, folder / "before")
    train(model, data.take(700), CONFIG, recipe=chosen, folder=folder, **options)
    return model


@pytest.mark.parametrize("line", [*LINES, "at:steps=1+mpd-sgr+stog"])
def test_a_recipe_learns_and_resumes_bit_for_bit(line, tmp_path, digits_train, digits_test):
    unbroken = trained(line, digits_train, tmp_path / "a")
    assert accuracy(unbroken, digits_test)["value"] > 0.8

    class Killed(Exception):
        pass

    def kill(progress):
        if (progress.epoch, progress.step) == (1, 3):
            raise Killed

    with pytest.raises(Killed):
        trained(line, digits_train, tmp_path / "b", on_step=kill)
    trained(line, digits_train, tmp_path / "b")
    assert (tmp_path / "a" / "state.safetensors").read_bytes() == (tmp_path / "b" / "state.safetensors").read_bytes()


def test_every_recipe_is_tried_here():
    assert {line.partition(":")[0] for line in LINES} == set(RECIPES)


def test_hire_in_one_period_without_noise_is_standard_training(digits_train):
    data, states = digits_train.take(200), []
    for chosen in (None, recipe("hire", periods=1, step_size=0)):
        model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5, learn=True)
        train(model, data, TrainConfig(epochs=1, batch_size=50), recipe=chosen)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_another_recipe_is_another_run(tmp_path, digits_train):
    data = digits_train.take(100)
    config = TrainConfig(epochs=1, batch_size=50)
    train(network(), data, config, recipe=recipe("tgo"), folder=tmp_path)
    with pytest.raises(ConfigError, match="recipe differ"):
        train(network(), data, config, recipe=recipe("tgo", margin=0.3), folder=tmp_path)


def test_a_robust_ann_becomes_a_spiking_network(digits_train, digits_test, tmp_path):
    config = TrainConfig(epochs=2, batch_size=48, learning_rate=0.01)
    chosen = recipe("robust-ann", steps=1, samples=200)
    model = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.25, leak=0.9, learn=True, width=2.0)
    made = [chosen.prepared(model, digits_train, config, tmp_path / "ann") for _ in range(2)]
    assert model_hash(made[0]) == model_hash(made[1])  # the second call finds the ANN trained
    network = made[0]
    assert accuracy(network, digits_test)["value"] > 0.7
    train(network, digits_train, config, recipe=chosen)
    assert accuracy(network, digits_test)["value"] > 0.8
    neurons = neurons_of(network)
    assert len(neurons) == 2
    assert all(neuron.estimator.surrogate.width == 2.0 for neuron in neurons)
    assert all(neuron.leak.item() == 1 and neuron.threshold.item() != 1 for neuron in neurons)


def test_a_robust_ann_needs_samples_and_layers_in_a_row():
    with pytest.raises(ConfigError, match="needs samples"):
        recipe("robust-ann").adapted(network())
    with pytest.raises(ConfigError, match="does not take neuron = 'relu'"):
        recipe("robust-ann").check(build("sew-resnet-small", input_shape=(1, 8, 8), classes=10, channels=0.25))
    for norm in ("group", "bntt"):
        with pytest.raises(ConfigError, match="Train with --norm batch, td or none"):
            recipe("robust-ann").check(network(norm=norm))
    with pytest.raises(ConfigError, match="got a model of the neuron 'relu'"):
        recipe("robust-ann").check(build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.25, neuron="relu"))
    with pytest.raises(ConfigError, match="what its `prepared` gives"):
        next(recipe("robust-ann").losses(network(), torch.rand(2, 1, 8, 8), torch.arange(2), Draws(0, "train/0", ("a", "b"))))
    recipe("robust-ann").check(network(comparator=">", gain="leaky"))
    with pytest.raises(ConfigError, match="the encoder 'direct'"):
        recipe("robust-ann").check(build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.25, encoder="poisson"))


@pytest.mark.parametrize("name", RECIPES)
def test_events_are_refused_where_images_are_moved(name):
    model = build("mlp", input_shape=(4, 2, 4, 4), classes=3, domain="events-binary", channels=0.05)
    x = torch.randint(0, 2, (6, 4, 2, 4, 4)).float()
    batch = (x, torch.arange(6) % 3, Draws(0, "train/0", tuple("abcdef")))
    if name in RECIPES_FOR_EVENTS:
        chosen = recipe(name)
        assert next(chosen.losses(chosen.adapted(model), *batch))[0] > 0
    else:
        with pytest.raises(ConfigError, match=r"images in \[0, 1\].*mpd-sgr"):
            next(recipe(name).losses(model, *batch))


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("hore", {}, "Did you mean 'hire'"),
        ("at", {"epps": 1}, "no setting 'epps'. Known: label_smoothing, eps, steps"),
        ("at", {"eps": -1}, "Expected eps of the recipe 'at' as a number from 0, got -1"),
        ("at", {"eps": float("nan")}, "got nan"),
        ("at", {"eps": "big"}, "got 'big'"),
        ("at", {"steps": 2.0}, "whole number from 1, got 2.0"),
        ("hire", {"periods": 0}, "periods"),
        ("sr", {"h": 0}, "above 0"),
        ("stog", {"keep": 1.5}, r"from 0.1 to 1, got 1.5"),
        ("tgo", {"label_smoothing": 1}, "label_smoothing"),
    ],
)
def test_bad_settings_are_refused(name, settings, match):
    with pytest.raises(ConfigError, match=match):
        recipe(name, **settings)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("hire+at", "joins no other"),
        ("at+rat", "one recipe that makes the batch, got at and rat"),
        ("tgo+tgo", "each recipe once"),
        ("at:eps", "name=value"),
        ("at:eps=1/0", "as a number"),
        ("at:steps=4/2", "whole number"),
        ("", "Unknown recipe ''"),
    ],
)
def test_bad_lines_are_refused(line, match):
    with pytest.raises(ConfigError, match=match):
        parse(line)


def test_a_line_says_what_it_means():
    told = parse("at:eps=8/255:steps=3 + tgo").describe()
    assert json.loads(json.dumps(told)) == told
    assert told["name"] == "at+tgo"
    assert (told["parts"][0]["eps"], told["parts"][0]["steps"]) == (8 / 255, 3)


def test_recipes_that_do_not_fit_the_model_are_refused(tiny, batch):
    from trustsnn.models.onestep import build_onestep

    with pytest.raises(ConfigError, match="periods that divide the 4 time steps"):
        next(recipe("hire", periods=3).losses(tiny(), *batch))
    for name, match in (("stog", r"recipe.adapted\(model\)"), ("feel", r"recipe.adapted\(model\)")):
        with pytest.raises(ConfigError, match=match):
            next(recipe(name).losses(tiny(), *batch))
    windows = build_onestep(input_shape=(1, 8, 8), classes=10, channels=0.1)
    for name in ("hire", "tgo"):
        with pytest.raises(ConfigError, match="follows the membranes"):
            recipe(name).check(windows)
    with pytest.raises(ConfigError, match="in the place of 'direct', got 'poisson'"):
        recipe("feel").check(tiny(encoder="poisson"))
    model = tiny()
    with masked(model, random_masks(model, 0.5)):
        for name in ("rat", "noise"):
            with pytest.raises(ConfigError, match="train it without masks"):
                recipe(name).check(model)


@pytest.mark.parametrize("line", ["hire:periods=4", "at:steps=1", "trades:steps=1", "tgo", "mppd-tv:steps=1", "noise"])
def test_a_stochastic_encoder_takes_a_recipe(line, digits_train):
    data, states = digits_train.take(100), []
    for _ in range(2):
        model = network(encoder="poisson")
        train(model, data, TrainConfig(epochs=1, batch_size=50), recipe=parse(line))
        states.append(torch.cat([value.double().flatten() for value in model.state_dict().values()]))
    assert torch.equal(*states)
