"""`trustsnn harden`: trained and audited twice with the same cells, and gone on with where it was killed."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.checkpoint import model_hash
from trustsnn.data import load
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.runners.harden import harden
from trustsnn.training import TrainConfig, train

SETTINGS = {
    "attacks": [{"attack": "fgsm"}, {"attack": "pgd", "settings": {"steps": 3}}],
    "eps": ["0.1"],
    "samples": 40,
    "quiet": True,
}


@pytest.fixture(scope="module")
def digits():
    return load("digits", "train"), load("digits", "test")


@pytest.fixture(scope="module")
def plain(digits):
    network = build("mlp", input_shape=(1, 8, 8), classes=10, seed=0)
    train(network, digits[0], TrainConfig(epochs=2))
    return network


def files(folder):
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "hardening.json", "hardening.html")}


def test_a_network_is_hardened_and_a_killed_run_goes_on(plain, digits, tmp_path, monkeypatch):
    before = model_hash(plain)
    config = TrainConfig(epochs=2)
    whole = harden(plain, "at:eps=1/10:steps=1", *digits, out=tmp_path / "whole", config=config, **SETTINGS)
    assert model_hash(plain) == before, "the model that came in was changed"
    assert model_hash(trustsnn.load(tmp_path / "whole")) == model_hash(whole.model) != before
    said = json.loads((tmp_path / "whole" / "config.json").read_text())["training"]
    assert said["recipe"]["name"] == "at"
    assert said["recipe"]["eps"] == float(Fraction("1/10"))
    assert said["model"] == before
    cells = [[e["cell"]["threat"] for e in json.loads((tmp_path / "whole" / side / "run.json").read_text())["cells"]]
             for side in ("before", "after")]  # fmt: skip
    assert cells[0] == cells[1]
    assert [row["norm"] for row in whole.result["rows"]] == [None, "linf"]

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("trustsnn.runners.harden.checkpoint.save", stop)
    with pytest.raises(KeyboardInterrupt):
        harden(plain, "at:eps=1/10:steps=1", *digits, out=tmp_path / "killed", config=config, **SETTINGS)
    monkeypatch.undo()
    harden(plain, "at:eps=1/10:steps=1", *digits, out=tmp_path / "killed", config=config, **SETTINGS)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_it_begins_with_the_weights_of_the_model_or_new_ones(plain, digits, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("trustsnn.runners.harden.train", lambda model, *_, **__: seen.update(model=model))
    for fresh in (False, True):
        harden(plain, "tgo", *digits, out=tmp_path / str(fresh), fresh=fresh, learn=True, **SETTINGS)
        learnt = {name.rpartition(".")[2] for name, _ in seen["model"].named_parameters()}
        assert {"leak", "threshold"} < learnt
        same = all(torch.equal(seen["model"].state_dict()[name], value) for name, value in plain.state_dict().items())
        assert same is not fresh


def test_a_robust_ann_is_trained_first(plain, digits, tmp_path):
    settings = {**SETTINGS, "samples": 20, "config": TrainConfig(epochs=1)}
    made = [harden(plain, "robust-ann:eps=1/20:steps=1", *digits, out=tmp_path / "out", **settings) for _ in range(2)]
    assert model_hash(made[0].model) == model_hash(made[1].model)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["training"]["fresh"]
    with pytest.raises(ConfigError, match="Leave out learn"):
        harden(plain, "robust-ann", *digits, out=tmp_path / "other", learn=True, **settings)
    assert {neuron.leak.item() for neuron in made[0].model.layers if hasattr(neuron, "leak")} == {1.0}
    assert (tmp_path / "out" / "training" / "before" / "state.safetensors").exists()
    assert trustsnn.load(tmp_path / "out").spec.steps == plain.spec.steps


def test_a_foreign_model_is_refused(digits, tmp_path):
    foreign = trustsnn.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), domain="image", time_steps=1)
    with pytest.raises(ConfigError, match="bundled network"):
        harden(foreign, "at", *digits, out=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


def test_the_command(plain, tmp_path, here, fits):
    trustsnn.save(plain, tmp_path / "plain")
    words = ["harden", "plain", "--data", "digits", "--epochs", "1", "--eps", "0.1", "--samples", "12", "--quiet"]

    done = here(*words, "--with", "tgo", "--out", "out")
    assert done.returncode in (0, 3), done.stderr
    assert done.stdout.startswith("Within L∞ 0.1: ")
    assert (tmp_path / "out" / "hardening.html").is_file()
    refused = here(*words, "--with", "tgoo", "--out", "other")
    assert refused.returncode == 2
    assert "Did you mean 'tgo'" in refused.stderr
    assert not (tmp_path / "other").exists()
    fits(tmp_path / "out" / "hardening.html")
