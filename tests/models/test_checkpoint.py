"""Checkpoints: what is saved comes back, and nothing else is ever accepted."""

from __future__ import annotations

import json
import pickle

import pytest
import safetensors.torch
import torch

import trustsnn
from trustsnn.canonical import canonical_json, sha256_of
from trustsnn.checkpoint import FORMAT, load_tensors, model_hash
from trustsnn.errors import ConfigError, RunError, UnsafeArtifactError
from trustsnn.models import build
from trustsnn.models.onestep import build_onestep
from trustsnn.temporal import S4NN, AlphaNetwork

FILES = ("model.safetensors", "config.json", "manifest.json")


@pytest.fixture
def model():
    return build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1, learn=True).eval()


@pytest.fixture
def folder(model, tmp_path):
    return trustsnn.save(model, tmp_path / "model", training={"recipe": "none"})


def resign(folder, **files):
    """Write files and a manifest that fits them: what a careless or hostile author could do."""
    import hashlib

    for name, content in files.items():
        (folder / {"weights": FILES[0], "config": FILES[1]}[name]).write_bytes(content)
    body = {"format": FORMAT, "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES[:2]}}
    (folder / FILES[2]).write_text(canonical_json({**body, "sha256": sha256_of(body)}) + "\n")


def test_round_trip(model, folder):
    again = trustsnn.load(folder)
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(again(x), model(x))
    assert model_hash(again) == model_hash(model)
    assert again.spec == model.spec
    assert not again.training
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("kind", ["onestep", "s4nn", "alpha"])
def test_a_network_with_a_builder_of_its_own_comes_back(kind, tmp_path):
    made = {
        "onestep": lambda: build_onestep(input_shape=(1, 8, 8), classes=10, channels=0.1),
        "s4nn": lambda: S4NN((1, 8, 8), hidden=12, last=16, spread=(20.0, 20.0), seed=3),
        "alpha": lambda: AlphaNetwork((1, 8, 8), hidden=12, seed=3),
    }
    model = made[kind]().eval()
    again = trustsnn.load(trustsnn.save(model, tmp_path / "model"))
    assert type(again) is type(model)
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(again(x), model(x))
    assert model_hash(again) == model_hash(model)


@pytest.mark.parametrize("name", ["none", [], {"a": 1}, "os:system"])
def test_an_unknown_architecture_is_refused(folder, name):
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["name"] = name
    resign(folder, config=json.dumps(config).encode())
    with pytest.raises(UnsafeArtifactError, match=r"config\.json"):
        trustsnn.load(folder)


def test_a_checkpoint_that_asks_for_too_much_memory_is_refused(tmp_path):
    folder = trustsnn.save(S4NN((1, 8, 8), hidden=12, last=16), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["arguments"]["hidden"] = 10**11
    resign(folder, config=json.dumps(config).encode())
    with pytest.raises(UnsafeArtifactError, match="does not fit"):
        trustsnn.load(folder)


def test_the_hash_sees_weights_and_architecture(model):
    before = model_hash(model)
    with torch.no_grad():
        model.layers[0].weight[0, 0, 0, 0] += 1e-3
    assert model_hash(model) != before
    assert model_hash(build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1, steps=5)) != model_hash(
        build("conv", input_shape=(1, 8, 8), classes=10, channels=0.1)
    )


def test_the_hash_sees_how_a_neuron_fires_and_what_a_foreign_module_gives():
    base = {"input_shape": (1, 8, 8), "classes": 3}
    hashes = {
        model_hash(build("mlp", **base, **each)) for each in ({}, {"reset": "soft"}, {"surrogate": "ste"}, {"detach_reset": True})
    }
    assert len(hashes) == 4

    class Own(torch.nn.Module):
        factor = 1.0

        def forward(self, x):
            return x.flatten(1)[:, :3] * self.factor

    own, probe = Own(), torch.rand(4, 1, 8, 8)
    before = model_hash(trustsnn.wrap(own, time_steps=1, classes=3), probe)
    assert model_hash(trustsnn.wrap(own, time_steps=1, classes=3), probe) == before
    own.factor = 2.0
    assert model_hash(trustsnn.wrap(own, time_steps=1, classes=3), probe) != before


@pytest.mark.parametrize("name", FILES)
def test_every_byte_is_guarded(folder, name):
    path = folder / name
    content = path.read_bytes()
    places = range(0, len(content), max(1, len(content) // 40))
    damaged = [content[:-1], content + b"\0", content + b"\n", b""]
    damaged += [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in places]
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(UnsafeArtifactError):
            trustsnn.load(folder)
    path.write_bytes(content)
    trustsnn.load(folder)
    path.unlink()
    with pytest.raises((UnsafeArtifactError, ConfigError), match=r"missing|not there"):
        trustsnn.load(folder)


def test_tensors_are_strict(model, folder):
    state = model.state_dict()
    first = next(iter(state))
    for change, message in (
        ({k: v for k, v in state.items() if k != first}, f"missing {first}"),
        ({**state, "extra": torch.zeros(2)}, "unexpected extra"),
        ({**state, first: state[first][:1].clone()}, "expected float32"),
        ({**state, first: state[first].double()}, "got float64"),
    ):
        resign(folder, weights=safetensors.torch.save(change))
        with pytest.raises(UnsafeArtifactError, match=message):
            trustsnn.load(folder)


def test_a_resigned_config_is_still_checked(folder):
    config = json.loads((folder / FILES[1]).read_text())
    for change in (
        {**config, "format": "other/9"},
        {**config, "architecture": {"name": "conv", "arguments": {"hook": "os.system"}}},
        {**config, "architecture": {"name": "conv", "arguments": {**config["architecture"]["arguments"], "channels": 60.0}}},
        {
            **config,
            "architecture": {"name": "conv", "arguments": {**config["architecture"]["arguments"], "input_shape": [-1, 8, 8]}},
        },
        {**config, "architecture": {"name": "conv", "arguments": {**config["architecture"]["arguments"], "steps": 4.5}}},
        {**config, "spec": {**config["spec"], "steps": 99}},
        {"format": FORMAT},
        [],
    ):
        resign(folder, config=json.dumps(change).encode())
        with pytest.raises(UnsafeArtifactError):
            trustsnn.load(folder)


class Bomb:
    def __reduce__(self):
        return (open, ("pickle-was-run", "w"))


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "weights.pkl"])
def test_a_pickle_is_refused_without_being_read(name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), protocol=0), b"PK\x03\x04" + b"\0" * 50):
        if name == "model.safetensors":
            resign(folder, weights=content)
            target = folder
        else:
            target = tmp_path / "theirs"
            target.mkdir(exist_ok=True)
            (target / name).write_bytes(content)
            if content[:1] == b"\x80":
                with pytest.raises(UnsafeArtifactError, match="is a pickle"):
                    trustsnn.load(target / name)
        with pytest.raises(UnsafeArtifactError):
            trustsnn.load(target)
    assert not (tmp_path / "pickle-was-run").exists()


def test_a_header_whose_length_ends_in_0x80_is_no_pickle(tmp_path):
    """The first byte of a pickle is 0x80, and so is that of one in 32 safetensors files, whose header is padded to 8 bytes."""
    for length in range(1, 400):
        content = safetensors.torch.save({"x" * length: torch.ones(1)})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    model = torch.nn.Module()
    model.register_parameter("x" * length, torch.nn.Parameter(torch.zeros(1)))
    load_tensors(model, content, tmp_path / "model.safetensors")
    assert model.state_dict()["x" * length].tolist() == [1.0]


def test_missing_checkpoints_and_foreign_models(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint folder"):
        trustsnn.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="bundled"):
        trustsnn.save(torch.nn.Linear(2, 2), tmp_path / "x")


def test_a_failed_write_leaves_the_old_checkpoint(model, folder, monkeypatch):
    before = {name: (folder / name).read_bytes() for name in FILES}
    with torch.no_grad():
        model.layers[0].weight += 1

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trustsnn.files.os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        trustsnn.save(model, folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
