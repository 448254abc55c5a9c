"""Private conversion: images that the ANN takes for their class, thresholds against a plain loop, and most of the accuracy kept."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, softmax

from trustsnn.checkpoint import model_hash
from trustsnn.data import from_arrays
from trustsnn.defenses.private import (
    Distillation,
    PrivateConversion,
    Synthesis,
    class_similarity,
    convert_privately,
    largest_currents,
    soft_labels,
    spiking_start,
    synthesise,
)
from trustsnn.defenses.private.conversion import Told, agreement
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.models import build
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig, accuracy

TRAINING = TrainConfig(epochs=10, batch_size=32, learning_rate=1e-3)


def pixels(data):
    return data.batch(range(len(data)))[0]


def test_soft_labels_gather_around_similar_classes(ann):
    similar = class_similarity(ann)
    assert np.allclose(np.diag(similar), 1)
    assert np.allclose(similar.min(1), 0)
    rows = ann.layers[-1].weight.detach().double().numpy()
    cosines = [rows[2] @ row / np.linalg.norm(rows[2]) / np.linalg.norm(row) for row in rows]
    assert similar[2, 5] == pytest.approx((cosines[5] - min(cosines)) / (max(cosines) - min(cosines)))
    labels = soft_labels(ann, range(4000)).numpy()
    assert np.allclose(labels.sum(1), 1)
    mean = labels.reshape(-1, 10, 10).mean(0)  # of a Dirichlet distribution: the concentrations' shares
    assert np.abs(mean - (similar + 1e-3) / (similar + 1e-3).sum(1, keepdims=True)).max() < 0.05


def test_the_ann_takes_synthetic_images_for_their_class(ann, images):
    assert accuracy(ann, images)["low"] > 0.8
    assert len(set(images.labels.tolist())) == 10
    noise = from_arrays(torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)), images.labels, classes=10)
    assert accuracy(ann, noise)["high"] < 0.3  # so the start did not show the classes


def test_an_image_depends_on_its_number_alone(ann, images, how):
    few = synthesise(ann, replace(how, samples=70, part=33))
    assert np.array_equal(pixels(few), pixels(images)[:70])
    assert few.ids == images.ids[:70]
    other = synthesise(ann, replace(how, samples=5, seed=1))
    assert not np.array_equal(pixels(other), pixels(images)[:5])


def test_images_that_were_killed_go_on_to_the_same(ann, images, how, tmp_path):
    def stop(done, total):
        if done > 2.5 * how.iterations:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(ann, how, tmp_path, on_step=stop)
    parts = sorted(tmp_path.glob("part-*.npz"))
    assert len(parts) == 2
    kept = [part.stat().st_mtime_ns for part in parts]
    told = []
    assert np.array_equal(pixels(synthesise(ann, how, tmp_path, on_part=lambda done, total: told.append(done))), pixels(images))
    assert [part.stat().st_mtime_ns for part in parts] == kept
    assert told == [64, 128, 192, 200]


def test_a_folder_of_other_settings_or_a_damaged_part_is_refused(ann, how, tmp_path):
    how = replace(how, samples=3, iterations=2)
    synthesise(ann, how, tmp_path)
    with pytest.raises(ConfigError, match=r"other settings \(iterations differ\)"):
        synthesise(ann, replace(how, iterations=3), tmp_path)
    other = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, neuron="relu")
    with pytest.raises(ConfigError, match=r"other settings \(ann differ\)"):
        synthesise(other, how, tmp_path)
    (part,) = tmp_path.glob("part-*.npz")
    part.write_bytes(part.read_bytes()[:-30])
    with pytest.raises(UnsafeArtifactError, match="not a whole part"):
        synthesise(ann, how, tmp_path)


def plain_currents(ann, x, steps, draws):
    """The largest current of each layer, step by step through the ANN's own layers, with spikes worth the thresholds before."""
    inputs = (draws.uniform((steps, *x.shape[1:])).transpose(0, 1) < x).to(x.dtype)
    bounds, neurons = [], [place for place, layer in enumerate(ann.layers) if hasattr(layer, "dynamics")]
    for end in neurons:
        membranes, top = [0.0] * len(bounds), 0.0
        for h in inputs:
            for place, layer in enumerate(ann.layers[:end]):
                if place not in neurons:
                    h = layer(h)
                    continue
                at = neurons.index(place)
                u = membranes[at] + h
                spike = (u >= bounds[at]).to(h.dtype)
                membranes[at] = u - spike * bounds[at]
                h = spike * bounds[at]
            top = max(top, float(h.max()))
        bounds.append(top)
    return bounds


def test_thresholds_are_the_largest_currents_of_a_plain_loop(ann, images):
    few = images.take(20)
    exact = copy.deepcopy(ann).eval()
    draws = Draws(0, "private/balance", few.ids)
    with torch.no_grad():
        wanted = plain_currents(exact, torch.from_numpy(pixels(few)), 5, draws)
    assert largest_currents(ann, few, 5) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
def test_with_many_steps_the_start_is_the_ann(ann, images, digits_test, encoder):
    start = spiking_start(ann, images, 64, encoder=encoder)
    assert start.spec.encoder == encoder
    assert {float(layer.threshold) for layer in start.layers if hasattr(layer, "dynamics")} == {1.0}
    assert accuracy(start, digits_test.take(100))["value"] > accuracy(ann, digits_test.take(100))["value"] - 0.1


@pytest.fixture(scope="module")
def converted(ann, how, made):
    folder = shutil.copytree(made, made / "converted")
    return convert_privately(ann, PrivateConversion(8, how, training=TRAINING), folder)


def test_most_accuracy_is_kept(ann, converted, digits_test):
    network, made = converted
    before, start = accuracy(ann, digits_test), accuracy(spiking_start(ann, made, 8), digits_test)
    after = accuracy(network, digits_test)
    assert after["value"] > before["value"] - 0.15
    assert after["low"] > start["high"]  # by training, which saw no digit
    assert agreement(network, ann, made)["low"] > 0.8
    assert agreement(ann, ann, made)["value"] == 1


def test_the_same_conversion_gives_the_same_bits_also_after_a_kill(ann, converted, how, made, tmp_path):
    shutil.copytree(made / "synthetic", tmp_path / "synthetic")
    settings = PrivateConversion(8, how, training=TRAINING)

    def stop(row):
        if row["epoch"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_privately(ann, settings, tmp_path, Told(epoch=stop))
    rows = []
    network, _ = convert_privately(ann, settings, tmp_path, Told(epoch=rows.append))
    assert [row["epoch"] for row in rows] == [5, 6, 7, 8, 9, 10]
    assert model_hash(network) == model_hash(converted[0])
    with pytest.raises(ConfigError, match=r"other settings \(recipe differ\)"):
        convert_privately(ann, replace(settings, temperature=2.0), tmp_path)
    shutil.rmtree(tmp_path / "training")
    untrained, _ = convert_privately(ann, replace(settings, training=None), tmp_path)
    assert model_hash(untrained) != model_hash(network)
    assert not (tmp_path / "training").exists()


def test_distillation_by_hand(ann, images):
    x, y = (torch.from_numpy(a.copy()) for a in images.take(16).batch(range(16)))
    student = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, steps=2).eval()
    draws = Draws(0, "test", tuple(map(str, range(16))))
    recipe = Distillation(ann, temperature=3.0, weight=0.7)
    ((loss, logits),) = recipe.losses(student, x, y, draws)
    loss.backward()
    with torch.no_grad():
        p, q = softmax(copy.deepcopy(ann).eval()(x) / 3, 1), softmax(student(x) / 3, 1)
        told = (p * (p.log() - q.log())).sum(1).mean()
        wanted = 0.7 * 9 * told + 0.3 * cross_entropy(student(x), y)
    assert loss.item() == pytest.approx(float(wanted), rel=1e-4)
    assert torch.equal(logits, student(x))
    assert not any(parameter.requires_grad for parameter in recipe.teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    ((zero, _),) = Distillation(student).losses(student, x, y, draws)
    assert zero.item() == pytest.approx(0, abs=1e-6)


def test_mistakes_have_one_message(ann, images):
    for wrong in ({"samples": 0}, {"iterations": 0}, {"learning_rate": float("nan")}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} of the synthetic images"):
            Synthesis(**wrong)
    for wrong in ({"temperature": 0.0}, {"weight": 1.5}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} of the distillation"):
            Distillation(ann, **wrong)
    spiking = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.25)
    with pytest.raises(ConfigError, match="layers are all ReLU"):
        convert_privately(spiking, PrivateConversion(4))
    with pytest.raises(ConfigError, match="number of steps of at least 1"):
        convert_privately(ann, PrivateConversion(0))
    with pytest.raises(ConfigError, match="at least 1 synthetic image to balance"):
        convert_privately(ann, PrivateConversion(4, balance=0))
    with pytest.raises(ConfigError, match="positive scale"):
        spiking_start(ann, images, 4, scale=0.0)
    with pytest.raises(ConfigError, match="encoder for images"):
        spiking_start(ann, images, 4, encoder="frames")
