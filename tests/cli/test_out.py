"""No command writes its result over another checkpoint, least of all over the one that it reads."""

from __future__ import annotations

import pytest

import trustsnn
from trustsnn.errors import ConfigError
from trustsnn.models import build

SMALL = {"input_shape": (1, 8, 8), "classes": 10, "channels": 0.25}
TRAINING = ["--data", "digits", "--epochs", 1, "--quiet"]
COMMANDS = {
    "convert": ["convert", "ann", "--method", "balance", "--steps", 2, "--data", "digits", "--calibration", 16],
    "private": ["convert", "ann", "--method", "private", "--steps", 2, "--samples", 10, "--iterations", 1, "--epochs", 0],
    "harden": ["harden", "snn", "--with", "noise", "--eps", 0.1, "--samples", 10, *TRAINING],
    "hybrid": ["train", "hybrid", "--ann", "ann", "--steps", 2, *TRAINING],
    "bptt": ["train", "bptt", "--model", "mlp", *TRAINING],
    "s4nn": ["train", "s4nn", "--hidden", 4, *TRAINING],
    "dp": ["train", "dp", "--model", "mlp", *TRAINING],
    "spikegpt": ["train", "spikegpt", "--text", "text", "--epochs", 1, "--quiet"],
    "export": ["export", "snn", "--format", "checkpoint"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("out", ["ann", "snn"])
def test_another_checkpoint_stays_as_it_is(name, out, cli, tmp_path):
    trustsnn.save(build("mlp", **SMALL, neuron="relu"), tmp_path / "ann", training={"recipe": "ann"})
    trustsnn.save(build("mlp", **SMALL, steps=2), tmp_path / "snn")
    (tmp_path / "text").write_text("0123456789" * 10, encoding="utf-8")
    before = {path: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=f"{out} holds another checkpoint, which would be lost. Choose another --out"):
        cli(*COMMANDS[name], "--out", out)
    assert {path: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()} == before


def test_the_same_command_may_write_again(cli, tmp_path):
    trustsnn.save(build("mlp", **SMALL, neuron="relu"), tmp_path / "ann", training={"recipe": "ann"})
    for _ in range(2):
        assert cli(*COMMANDS["convert"], "--samples", 8, "--out", "made").exit_code == 0
    with pytest.raises(ConfigError, match="made holds another checkpoint"):
        cli(*COMMANDS["private"], "--out", "made")
