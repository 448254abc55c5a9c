"""Attention-guided compression: the maps by hand, the term falls, and what is gone stays gone to the end of hybrid training."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import trustsnn
from trustsnn.checkpoint import model_hash
from trustsnn.conversion import Calibration, hybrid_start
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig, count_synapses, masked, train
from trustsnn.training.attention import AttentionGuided, attention_distance, attention_map
from trustsnn.training.compress import train_sparse, zero_masks

CONFIG = TrainConfig(epochs=4, batch_size=50, learning_rate=5e-3)


def network(name="conv", seed=0, **arguments):
    return build(name, input_shape=(1, 8, 8), classes=10, channels=0.25, seed=seed, **{"neuron": "relu", **arguments})


def gone(model):
    return {row.layer: row.synapses - row.active for row in count_synapses(model)}


@pytest.fixture(scope="module")
def few(digits_train):
    return digits_train.take(500)


@pytest.fixture(scope="module")
def teacher(few):
    model = network(seed=1)
    train(model, few, TrainConfig(epochs=6, batch_size=50, learning_rate=5e-3))
    return model


@pytest.fixture(scope="module")
def student(few, teacher):
    """A ReLU network that learned 0.9 of its synapses away under the eyes of the teacher. Do not change it."""
    model = network()
    train_sparse(model, few, CONFIG, 0.9, recipe=AttentionGuided(teacher, alpha=4.0))
    return model


def distance(model, teacher, data):
    guided, x = AttentionGuided(teacher), torch.from_numpy(data.batch(range(200))[0])
    with torch.no_grad():
        return float(guided.judge(model.eval(), x, Draws(0, "test", data.ids[:200]))[1])


def test_maps_and_their_distance_by_hand():
    a = torch.tensor([[[[1.0, 2.0]], [[2.0, 0.0]]]])  # [1, 2, 1, 2]
    assert attention_map(a).tolist() == [[[5.0, 4.0]]]
    one, other = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[8.0, 6.0]]])
    expected = np.hypot(3 / 5 - 8 / 10, 4 / 5 - 6 / 10)
    assert attention_distance(one, other).tolist() == pytest.approx([expected])
    assert attention_distance(7 * one, one).tolist() == pytest.approx([0.0], abs=1e-6)
    assert attention_distance(0 * one, one).tolist() == pytest.approx([1.0])


def test_the_loss_is_cross_entropy_and_half_alpha_times_the_sum_of_distances(few, teacher):
    model, guided = network(seed=2), AttentionGuided(teacher, alpha=3.0, label_smoothing=0.1)
    x, y = map(torch.from_numpy, few.batch(range(20)))
    ((loss, logits),) = guided.losses(model.eval(), x, y, Draws(0, "test", few.ids[:20]))
    total = torch.nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
    (_, ours), (_, theirs) = model.activations(x), teacher.activations(x)
    maps = [name for name, each in ours.items() if each.dim() == 4]
    assert len(maps) == 2
    assert guided.layers == tuple(maps)
    for name in maps:
        q, r = (each[name].detach().double().numpy() ** 2 for each in (ours, theirs))
        q, r = (m.sum(1).reshape(20, -1) for m in (q, r))
        q, r = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (q, r))
        total = total + 3.0 / 2 * np.linalg.norm(q - r, axis=1).mean()
    assert torch.equal(logits, model(x))
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)


def test_the_gradient_is_finite_where_maps_are_equal_or_empty(few, teacher):
    x, draws = torch.from_numpy(few.batch(range(4))[0]), Draws(0, "test", few.ids[:4])
    equal, silent = copy.deepcopy(teacher), network().eval()
    with torch.no_grad():
        for name, parameter in silent.named_parameters():
            parameter.fill_(-1.0 if name.endswith("bias") else 0.0)
    for model, expected in ((equal, 0.0), (silent, 2.0)):
        found = AttentionGuided(teacher).judge(model, x, draws)[1]
        assert found.item() == pytest.approx(expected, abs=1e-6)
        found.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_teacher_stays_as_it_is(few, teacher):
    before, guided = model_hash(teacher), AttentionGuided(copy.deepcopy(teacher).train())
    train(network(), few.take(100), TrainConfig(epochs=1, batch_size=50), recipe=guided)
    assert model_hash(guided.teacher) == before


def test_the_attention_term_falls(few, teacher, student, digits_test):
    plain = network()
    train_sparse(plain, few, CONFIG, 0.9)
    start, unguided, guided = (distance(model, teacher, digits_test) for model in (network(), plain, student))
    assert guided < 0.8 * min(start, unguided)


def test_alpha_0_is_plain_sparse_training_bit_for_bit(few, teacher):
    plain, guided = network(), network()
    config = TrainConfig(epochs=2, batch_size=50, learning_rate=5e-3, augmentation="shift")
    log = train_sparse(plain, few, replace(config, label_smoothing=0.1), 0.9)
    guidance = AttentionGuided(teacher, 0.0, label_smoothing=0.1)
    assert train_sparse(guided, few, config, 0.9, recipe=guidance) == log
    with pytest.raises(ConfigError, match="smooths labels by itself"):
        train_sparse(network(), few, replace(config, label_smoothing=0.1), 0.9, recipe=guidance)
    assert model_hash(guided) == model_hash(plain)


def test_the_sparsity_is_kept_to_the_end_of_hybrid_training(few, student):
    share = sum(gone(student).values()) / sum(row.synapses for row in count_synapses(student))
    assert share == pytest.approx(0.9, abs=1e-3)
    spiking = hybrid_start(student, 2, Calibration(few))
    start = list(gone(spiking).values())
    assert start == list(gone(student).values())
    with masked(spiking, zero_masks(spiking)):
        train(spiking, few, TrainConfig(epochs=1, batch_size=50))
    assert list(gone(spiking).values()) == start
    train(spiking, few, TrainConfig(epochs=1, batch_size=50))
    assert sum(gone(spiking).values()) < 0.8 * sum(start)  # what the masks are for


def test_zeros_are_masked_where_there_are_some():
    model = network()
    assert zero_masks(model) == {}
    with torch.no_grad():
        model.layers[0].weight[1] = 0
    masks = zero_masks(model)
    assert list(masks) == ["layers.0"]
    assert torch.equal(~masks["layers.0"], model.layers[0].weight == 0)


def test_a_state_of_another_teacher_is_refused(few, teacher, tmp_path):
    data, config = few.take(100), TrainConfig(epochs=1, batch_size=50)
    train(network(), data, config, recipe=AttentionGuided(teacher), folder=tmp_path)
    for other in (AttentionGuided(network(seed=3)), AttentionGuided(teacher, 2.0), AttentionGuided(teacher, layers=["layers.2"])):
        with pytest.raises(ConfigError, match=r"\(recipe differ\)"):
            train(network(), data, config, recipe=other, folder=tmp_path)


def test_a_spiking_and_narrower_network_may_learn_from_it(few, teacher):
    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1, steps=2, encoder="poisson")
    train(model, few.take(100), TrainConfig(epochs=1, batch_size=50), recipe=AttentionGuided(teacher))


@pytest.mark.parametrize(
    ("refuses", "message"),
    [
        (lambda t, x: AttentionGuided(t, -1.0), "alpha of at least 0, got -1.0"),
        (lambda t, x: AttentionGuided(t, float("nan")), "alpha of at least 0, got nan"),
        (lambda t, x: AttentionGuided(t, layers=["layers.9"]), r"maps among the teacher's \(layers.2, .*\), got layers.9"),
        (lambda t, x: AttentionGuided(t, layers=[]), "got none"),
        (lambda t, x: AttentionGuided(network("mlp")), "none: it has no convolution"),
        (
            lambda t, x: AttentionGuided(t).judge(network("mlp").eval(), x, Draws(0, "test", ("a",))),
            r"a map of the teacher's size \[8, 8\] from layers.2, got no map",
        ),
    ],
)
def test_what_does_not_fit_is_refused(refuses, message, teacher, few):
    with pytest.raises(ConfigError, match=message):
        refuses(teacher, torch.from_numpy(few.batch(range(1))[0]))


def test_from_a_teacher_to_a_sparse_spiking_network_from_the_command_line(teacher, tmp_path, said):
    trustsnn.save(teacher, tmp_path / "teacher")
    given = ["--data", "digits", "--quiet", "--threads", 1, "--epochs"]
    printed = said("train", "compress", "--ann", tmp_path / "teacher", "--out", tmp_path / "student", *given, 2, "--alpha", 2)
    left = re.search(r"(\S+)% of [\d,]+ synapses are gone. Left: (.*)", printed)
    assert float(left[1]) >= 90
    training = json.loads((tmp_path / "student" / "config.json").read_text())["training"]
    assert training["losses"]["teacher"] == model_hash(teacher)
    assert training["losses"]["alpha"] == 2
    printed = said("train", "hybrid", "--ann", tmp_path / "student", "--steps", 2, "--out", tmp_path / "snn", *given, 1)
    assert f"{left[1]}% of " in printed
    assert list(gone(trustsnn.load(tmp_path / "snn")).values()) == list(gone(trustsnn.load(tmp_path / "student")).values())
