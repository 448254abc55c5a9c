"""`trustsnn train qcfs` and `trustsnn convert`: what they write and what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import trustsnn
from trustsnn.checkpoint import model_hash
from trustsnn.conversion import Calibration, convert, hybrid_start
from trustsnn.data import load
from trustsnn.neurons.estimator import neurons_of


def run(*arguments):
    """What a command prints in a process of its own, for what is made once for all tests here."""
    done = subprocess.run([sys.executable, "-m", "trustsnn", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("qcfs") / "ann"
    training = ["--epochs", 2, "--channels", 0.2, "--levels", 7, "--threshold", 3.5, "--bit-l1", 1e-7, "--quiet"]
    said = run("train", "qcfs", "--model", "mlp", "--data", "digits", "--out", out, *training)
    assert "test samples correct (95 % interval" in said
    return out


def test_train_qcfs_keeps_its_settings(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["training"]["recipe"] == "qcfs"
    arguments = config["architecture"]["arguments"]
    assert {key: arguments[key] for key in ("neuron", "levels", "threshold", "sparsity", "channels", "steps")} == {
        "neuron": "qcfs", "levels": 7, "threshold": 3.5, "sparsity": 1e-7, "channels": 0.2, "steps": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("arguments", "steps"), [(["--double"], 3), (["--method", "rate", "--steps", 6], 6)])
def test_convert_writes_a_network_and_says_where_it_differs(trained, tmp_path, arguments, steps, said):
    printed = said("convert", trained, "--data", "digits", "--samples", 50, "--out", tmp_path / "snn", *arguments)
    spiking = trustsnn.load(tmp_path / "snn")
    assert spiking.spec.steps == steps
    config = json.loads((tmp_path / "snn" / "config.json").read_text())
    assert config["training"]["ann"] == model_hash(trustsnn.load(trained))
    lines = [line.split() for line in printed.splitlines()]
    layers = [line for line in lines if line and line[0].startswith("layers.")]
    assert [line[0] for line in layers] == ["layers.2", "layers.4"]
    assert all(line[1] == f"{50 * spiking.layers[1].out_features:,}" for line in layers)
    assert all(line[3:6] == ["n", "=", "0"] for line in layers) == ("--double" in arguments)
    difference = float(re.search(r"logits differ by up to (\S+)\.\s", printed)[1])
    assert (difference < 1e-8) == ("--double" in arguments)
    assert "of 50 (95 % interval" in printed
    assert "spikes a sample" in printed


def test_a_mistake_is_one_message_and_writes_nothing(trained, tmp_path, said):
    printed = said("convert", trained, "--data", "digits", "--out", tmp_path / "snn", "--steps", 4, code=2)
    assert printed.strip() == "error: Expected 3 bit-serial steps for 7 levels, got 4: L = 2^T - 1."
    assert not (tmp_path / "snn").exists()


@pytest.fixture(scope="module")
def rectified_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("relu") / "ann"
    run("train", "ann", "--model", "mlp", "--data", "digits", "--out", out, "--epochs", 2, "--channels", 0.2, "--quiet")
    return out


def test_calibration_uses_the_training_split_and_says_where_error_enters(rectified_folder, tmp_path, said):
    arguments = ["--method", "calibrate-advanced", "--steps", 3, "--calibration", 50, "--iterations", 3, "--initial", 0.5]
    printed = said("convert", rectified_folder, "--data", "digits", "--samples", 50, "--out", tmp_path / "snn", *arguments)
    spiking, ann = trustsnn.load(tmp_path / "snn"), trustsnn.load(rectified_folder)
    given = Calibration(load("digits", "train").take(50), initial=0.5, iterations=3)
    assert model_hash(spiking) == model_hash(convert(ann, "calibrate-advanced", steps=3, calibration=given))
    assert json.loads((tmp_path / "snn" / "config.json").read_text())["training"]["method"] == "calibrate-advanced"
    assert "nearest spike count" in printed
    assert re.search(r"layers.2 +2,550 ", printed)


def test_hybrid_goes_on_from_an_ann(rectified_folder, tmp_path, said):
    arguments = ["--ann", rectified_folder, "--data", "digits", "--out", tmp_path / "snn", "--epochs", 1, "--steps", 2, "--quiet"]
    printed = said("train", "hybrid", *arguments, "--diet", "--stdb")
    assert "test samples correct (95 % interval" in printed
    spiking, ann = trustsnn.load(tmp_path / "snn"), trustsnn.load(rectified_folder)
    assert spiking.spec.steps == 2
    assert {float(layer.threshold.detach()) for layer in neurons_of(spiking)} != {1.0}  # DIET-SNN learns it
    training = json.loads((tmp_path / "snn" / "config.json").read_text())["training"]
    assert training["recipe"] == "hybrid"
    assert training["ann"] == model_hash(ann)
    assert training["estimator"] == {"name": "stdb", "alpha": 0.3, "beta": 0.01}
    refused = said("train", "hybrid", *arguments, "--diet", code=2)
    assert "holds a training run of other settings (start differ)" in refused


@pytest.mark.parametrize(
    ("option", "message"), [("--epochs", "epochs of at least 1, got 0"), ("--calibration", "at least 1 sample, got 0")]
)
def test_nothing_is_not_taken_for_not_given(option, message, rectified_folder, tmp_path, said):
    given = {"--epochs": 1, "--calibration": 20, option: 0}
    arguments = [each for pair in given.items() for each in pair]
    refused = said(
        "train", "hybrid", "--ann", rectified_folder, "--data", "digits", "--out", tmp_path / "snn", *arguments, code=2
    )
    assert message in refused


def test_hybrid_goes_on_from_a_qcfs_network_without_calibration(trained, tmp_path, said):
    arguments = ["--ann", trained, "--data", "digits", "--out", tmp_path / "snn", "--epochs", 1, "--steps", 2, "--quiet"]
    refused = said("train", "hybrid", *arguments, "--scale", 0.7, code=2)
    assert "takes no calibration" in refused
    assert not (tmp_path / "snn").exists()
    printed = said("train", "hybrid", *arguments)
    assert "test samples correct (95 % interval" in printed
    spiking, ann = trustsnn.load(tmp_path / "snn"), trustsnn.load(trained)
    training = json.loads((tmp_path / "snn" / "config.json").read_text())["training"]
    assert training["weights"] == model_hash(hybrid_start(ann, 2))
    assert spiking.spec.steps == 2
