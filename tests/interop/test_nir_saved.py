"""Models from NIR files as checkpoints: saved, loaded strictly, sealed, trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import trustsnn
from trustsnn import checkpoint
from trustsnn.checkpoint import model_hash, write_manifest
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.interop import nir
from trustsnn.interop.graph_model import GraphModel
from trustsnn.interop.plain import described
from trustsnn.models import SpikingNetwork, build
from trustsnn.models.zoo import rebuild
from trustsnn.runners.harden import _start

DATA = Path(__file__).parent / "data"


def imported(name):
    if name in ("snntorch", "norse"):
        return nir.read(DATA / f"{name}.nir", nir.Settings(dt={"snntorch": 1e-4, "norse": 1e-6}[name], time_steps=12))
    raise AssertionError(name)


@pytest.fixture
def bundled(tmp_path):
    """A function that writes a bundled network and reads it as a NIR file."""

    def through(name, **options):
        model = build(name, input_shape=(1, 8, 8), classes=10, **options).eval()
        nir.write(model, tmp_path / f"{name}.nir", dt=1e-3)
        return nir.read(tmp_path / f"{name}.nir")

    return through


def same(model, other):
    x = torch.rand(6, *model.spec.input_shape, generator=torch.Generator().manual_seed(0))
    one, two = model.unroll(x), other.unroll(x)
    assert asdict(model.spec) == asdict(other.spec)
    assert torch.equal(one.logits, two.logits)
    assert all(torch.equal(count, two.spike_counts[name]) for name, count in one.spike_counts.items())
    assert sum(float(count.sum()) for count in one.spike_counts.values()) > 0
    return model_hash(model) == model_hash(other)


@pytest.mark.parametrize(("name", "kind"), [("snntorch", SpikingNetwork), ("norse", GraphModel)])
def test_a_graph_of_a_framework_comes_back_from_a_checkpoint_to_the_bit(name, kind, tmp_path):
    model = imported(name)
    loaded = checkpoint.load(checkpoint.save(model, tmp_path / name))
    assert type(loaded) is kind
    assert same(model, loaded)


def test_branches_and_every_layer_of_a_graph_come_back(bundled, tmp_path):
    for name, options in (("conv", {}), ("sew-resnet-small", {"channels": 0.25}), ("ms-resnet-small", {"channels": 0.25})):
        model = bundled(name, **options)
        assert same(model, checkpoint.load(checkpoint.save(model, tmp_path / name)))


def test_the_command_saves_a_file_that_is_then_sealed_and_trained_on(bundled, cli, tmp_path, monkeypatch):
    model = bundled("mlp", channels=0.25)
    cli("export", tmp_path / "mlp.nir", "--format", "checkpoint", "--out", tmp_path / "mlp")
    assert same(model, trustsnn.load(tmp_path / "mlp"))
    monkeypatch.setenv("SECRET", "a long passphrase of a test")
    cli("seal", tmp_path / "mlp", "--out", tmp_path / "sealed", "--passphrase-env", "SECRET")
    cli("unseal", tmp_path / "sealed", "--out", tmp_path / "open", "--passphrase-env", "SECRET")
    assert same(model, trustsnn.load(tmp_path / "open"))
    start = _start(checkpoint.load_network(tmp_path / "mlp"), seed=3, fresh=False, learn=True)
    assert not same(model, start)  # the same spikes, of another seed and with thresholds that learn
    assert all(parameter.requires_grad for parameter in start.parameters())
    assert sum("threshold" in name for name, _ in start.named_parameters()) == len(
        start.unroll(torch.rand(1, 1, 8, 8)).spike_counts
    )
    for wrong in (["--format", "checkpoint", "--dt", "1"], ["--format", "nir"], ["--format", "onnx"]):
        with pytest.raises(ConfigError, match="format nir"):
            cli("export", tmp_path / "mlp.nir", "--out", tmp_path / "again", *wrong)


@pytest.mark.parametrize(
    "damage",
    [
        lambda given: given["layers"].pop(),
        lambda given: given["layers"].append(["more", {"kind": "Identity"}]),
        lambda given: given["layers"][1][1].update(kind="eval"),
        lambda given: given["layers"][1].__setitem__(
            1, {"kind": "Linear", "in_features": 1 << 40, "out_features": 1 << 20, "bias": True}
        ),
        lambda given: given["layers"][1][1].update(device="cpu", elsewhere=1),
        lambda given: given["sources"].__setitem__(0, ["later"]),
        lambda given: given["spec"].update(classes=7),
        lambda given: given.pop("spec"),
        lambda given: given.update(layers=3),
    ],
)
def test_a_structure_that_does_not_fit_is_refused(damage, tmp_path):
    folder = checkpoint.save(imported("norse"), tmp_path / "norse")
    config = json.loads((folder / "config.json").read_text())
    damage(config["architecture"]["arguments"])
    text = json.dumps(config)
    (folder / "config.json").write_text(text)
    weights = json.loads((folder / "manifest.json").read_text())["files"]["model.safetensors"]
    write_manifest(folder, weights, text.encode())
    with pytest.raises(UnsafeArtifactError):
        checkpoint.load(folder)


def test_seeds_decide_fresh_weights_and_other_layers_have_no_plain_form(bundled):
    architecture = bundled("mlp", channels=0.25).architecture
    one, again, other = (
        rebuild({**architecture, "arguments": {**architecture["arguments"], "seed": seed}}) for seed in (1, 1, 2)
    )
    first = [next(model.parameters()) for model in (one, again, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    with pytest.raises(TypeError, match="MaxPool2d"):
        described(torch.nn.MaxPool2d(2))
