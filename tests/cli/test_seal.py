"""`trustsnn keygen`, `seal`, `unseal` and `verify`, and sealed models under the other commands."""

from __future__ import annotations

import json
import shutil

import pytest

import trustsnn
from trustsnn.checkpoint import model_hash
from trustsnn.defenses.seal.selective import bits_of
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.models import build
from trustsnn.training import TrainConfig, train


@pytest.fixture
def model(tmp_path):
    """A checkpoint `model`, untrained, and a key `key` beside it."""
    network = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, steps=2).eval()
    trustsnn.save(network, tmp_path / "model")
    return network


@pytest.fixture
def sealed(model, cli, tmp_path):
    """`model` in the folder `sealed`, under `key`, signed with `sign.pem`."""
    assert cli("keygen", "key").exit_code == 0
    assert cli("keygen", "--signing", "sign.pem").exit_code == 0
    assert cli("keygen", "new/key").exit_code == 0
    done = cli("seal", "model", "--out", "sealed", "--key-file", "key", "--sign", "sign.pem")
    assert done.exit_code == 0
    assert "still in model" in done.output
    return tmp_path / "sealed"


def test_seal_verify_unseal(cli, sealed, model, tmp_path):
    signed = cli("verify", "sealed", "--public", "sign.pem.pub").output
    assert "not opened" in signed
    assert "signed by" in signed
    both = cli("verify", "sealed", "--public", "sign.pem.pub", "--key-file", "key").output
    assert "each opens with the key" in both
    assert cli("unseal", "sealed", "--out", "plain", "--key-file", "key", "--public", "sign.pem.pub").exit_code == 0
    for name in ("model.safetensors", "config.json", "manifest.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_a_sealed_model_is_inspected_audited_and_converted(cli, sealed, model, tmp_path):
    assert f"hash: {model_hash(model)}" in cli("inspect", "sealed", "--key-file", "key").output
    options = ["--data", "digits", "--samples", "8", "--attacks", "fgsm", "--eps", "0.1", "--quiet"]
    assert cli("audit", "sealed", "--key-file", "key", *options, "--out", "run").exit_code in (0, 3)
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["model"]["hash"] == model_hash(model)
    assert found["config"]["command"].endswith("--key-file KEY --out RUN")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".safetensors", ".sealed")]
    again = cli("audit", "model", *options, "--out", "run")  # the same run: it is taken up
    assert again.exit_code in (0, 3)

    trustsnn.save(build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, neuron="qcfs", steps=1), tmp_path / "ann")
    cli("seal", "ann", "--out", "ann-sealed", "--key-file", "key")
    done = cli("convert", "ann-sealed", "--key-file", "key", "--data", "digits", "--samples", "8", "--out", "bits")
    assert done.exit_code == 0
    assert cli("export", "sealed", "--key-file", "key", "--format", "checkpoint", "--out", "exported").exit_code == 0
    for made in ("bits", "exported"):
        assert sorted(path.name for path in (tmp_path / made).iterdir()) == ["config.json", "manifest.json", "model.sealed"]
        assert cli("inspect", made, "--key-file", "key").exit_code == 0
    for refused in (
        ["export", "sealed", "--dt", "0.001", "--out", "model.nir"],
        ["convert", "ann-sealed", "--method", "private", "--steps", "2", "--out", "private"],
    ):
        with pytest.raises(ConfigError, match="trustsnn unseal"):
            cli(*refused, "--key-file", "key")
        assert not (tmp_path / refused[-1]).exists()


LEAKAGE = {
    "gradients": (["--data", "digits", "--samples", "2", "--attack", "analytic", "--defence", "none"], "gradients.json"),
    "extract": (
        ["--data", "digits", "--samples", "20", "--budgets", "20", "--train-steps", "1", "--copy", "mlp", "--eps", "0"],
        "extraction.json",
    ),
    "attribute": (["--data", "cancer", "--features", "0"], "attributes.json"),
    "class": (["--data", "digits", "--judge", "judge", "--images", "1", "--iterations", "1", "--samples", "100"], "leakage.json"),
}


@pytest.mark.parametrize("attack", LEAKAGE)
def test_the_leakage_of_a_sealed_model_is_that_of_the_plain_one(cli, sealed, tmp_path, attack):
    options, record = LEAKAGE[attack]
    trustsnn.save(
        build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, neuron="relu", steps=1, seed=1), tmp_path / "judge"
    )
    if attack == "attribute":
        trustsnn.save(build("mlp", input_shape=(1, 1, 30), classes=2, channels=0.1), tmp_path / "model")
        shutil.rmtree(tmp_path / "sealed")
        cli("seal", "model", "--out", "sealed", "--key-file", "key")
    for folder, key in (("sealed", ["--key-file", "key"]), ("model", [])):
        assert cli("leakage", attack, folder, *options, *key, "--out", f"of-{folder}", "--quiet").exit_code == 0
    found, plain = ((tmp_path / f"of-{name}" / record).read_text().replace("sealed", "model") for name in ("sealed", "model"))
    assert found == plain
    with pytest.raises(ConfigError, match="is sealed"):
        cli("leakage", attack, "sealed", *options, "--out", "x")
    with pytest.raises(ConfigError, match=r"not sealed|Expected a sealed model"):
        cli("leakage", attack, "model", *options, "--key-file", "key", "--out", "x")


def test_passphrases(cli, model, monkeypatch):
    monkeypatch.setenv("SECRET", "correct horse")
    assert cli("seal", "model", "--out", "one", "--passphrase-env", "SECRET").exit_code == 0
    assert "each opens" in cli("verify", "one", "--passphrase", text="correct horse\n").output
    with pytest.raises(UnsafeArtifactError, match="wrong key"):
        cli("verify", "one", "--passphrase", text="wrong\n")
    assert cli("seal", "model", "--out", "two", "--passphrase", text="one\nother\n").exit_code != 0  # not the same twice


def test_selective(cli, tmp_path, digits_train):
    network = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.2, steps=2)
    train(network, digits_train, TrainConfig(epochs=3, batch_size=64, learning_rate=5e-3))
    trustsnn.save(network, tmp_path / "conv")
    cli("keygen", "key")
    options = ["--key-file", "key", "--data", "digits", "--samples", "150"]
    done = cli("seal", "conv", "--out", "sealed", *options, "--selective", "1e-2")
    assert done.exit_code == 0
    lines = [line for line in done.output.splitlines() if "of 360 test samples correct without the key (95 % interval" in line]
    assert len(lines) > 2
    assert "bits, the others plain; each opens" in cli("verify", "sealed", "--key-file", "key").output
    assert f"hash: {model_hash(network)}" in cli("inspect", "sealed", "--key-file", "key").output
    total = bits_of(network)
    for share, message in ((2.5 / total, "2 bits leave .* Nothing was written"), (0.5 / total, "less than one")):
        with pytest.raises(ConfigError, match=message):
            cli("seal", "conv", "--out", "not", *options, "--selective", share)
    assert not (tmp_path / "not").exists()


MISTAKES = {
    "no key": (["seal", "model", "--out", "x"], ConfigError, "Expected a key"),
    "two keys": (["seal", "model", "--out", "x", "--key-file", "key", "--key-env", "A"], ConfigError, "got more"),
    "no key file": (["seal", "model", "--out", "x", "--key-file", "nowhere"], ConfigError, "Could not read the key file"),
    "unset variable": (["seal", "model", "--out", "x", "--key-env", "NOT_SET_AT_ALL"], ConfigError, "is not set"),
    "short key": (["seal", "model", "--out", "x", "--key-file", "short"], ConfigError, "hexadecimal digits"),
    "no signing key": (["seal", "model", "--out", "x", "--key-file", "key", "--sign", "key"], ConfigError, "Ed25519 private"),
    "no data": (["seal", "model", "--out", "x", "--key-file", "key", "--selective", "1e-4"], ConfigError, "go together"),
    "no share": (
        ["seal", "model", "--out", "x", "--key-file", "key", "--selective", "2", "--data", "digits"], ConfigError, r"in \(0, 1\]",
    ),
    "no model": (["seal", "nowhere", "--out", "x", "--key-file", "key"], ConfigError, "no checkpoint"),
    "over the model": (["seal", "model", "--out", "model", "--key-file", "key"], ConfigError, "there already"),
    "twice": (["seal", "sealed", "--out", "x", "--key-file", "key"], ConfigError, "sealed already"),
    "unseal without a key": (["unseal", "sealed", "--out", "x"], ConfigError, "Expected the key"),
    "unseal a plain one": (["unseal", "model", "--out", "x", "--key-file", "key"], ConfigError, "Expected a sealed"),
    "verify by nothing": (["verify", "sealed"], ConfigError, "a key or a public key"),
    "inspect without a key": (["inspect", "sealed"], ConfigError, "is sealed"),
    "a key for a plain model": (["inspect", "model", "--key-file", "key"], ConfigError, "not sealed"),
    "weights beside": (["inspect", "sealed", "--key-file", "key", "--weights", "w"], ConfigError, "--weights"),
    "wrong key": (["inspect", "sealed", "--key-file", "other"], UnsafeArtifactError, "wrong key"),
    "wrong signer": (["verify", "sealed", "--public", "other.pem.pub"], UnsafeArtifactError, "signature"),
    "unseal by a wrong key": (["unseal", "sealed", "--out", "x", "--key-file", "other"], UnsafeArtifactError, "wrong key"),
    "key over a key": (["keygen", "key"], ConfigError, "never written over"),
}  # fmt: skip


@pytest.fixture
def others(cli, sealed, tmp_path):
    """Keys that do not fit."""
    cli("keygen", "other")
    cli("keygen", "--signing", "other.pem")
    (tmp_path / "short").write_text("abcdef")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_error_and_changes_nothing(name, cli, others, tmp_path):
    arguments, kind, message = MISTAKES[name]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(kind, match=message) as caught:
        cli(*arguments)
    assert caught.value.exit_code == (4 if kind is UnsafeArtifactError else 2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "x").exists()


def test_a_key_that_others_can_read_is_warned_about(cli, sealed, tmp_path):
    assert "warning" not in cli("verify", "sealed", "--key-file", "key").stderr
    (tmp_path / "key").chmod(0o644)
    done = cli("verify", "sealed", "--key-file", "key")
    assert "chmod 600" in done.stderr
    assert "warning" not in done.stdout
