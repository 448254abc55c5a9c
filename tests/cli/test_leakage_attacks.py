"""`trustsnn leakage gradients` and `trustsnn leakage extract`."""

from __future__ import annotations

import json

import pytest

import trustsnn
from trustsnn.errors import ConfigError
from trustsnn.models import build


@pytest.fixture
def model(tmp_path):
    """A checkpoint `model`, untrained."""
    trustsnn.save(build("mlp", input_shape=(1, 8, 8), classes=10, steps=2, leak=0.9, norm="none").eval(), tmp_path / "model")


def test_gradients_of_simulated_clients_and_of_a_saved_update(cli, model, tmp_path):
    command = ["leakage", "gradients", "model", "--data", "digits", "--samples", "6", "--iterations", "1", "--out", "run"]
    done = cli(*command, "--defence", "clip=0.01,poisson=2", "--attack", "analytic,inverting", "--keep-updates", "--quiet")
    assert "not stopped by clip=0.01" in done.output
    assert "run/gradients.html" in done.output
    record = json.loads((tmp_path / "run" / "gradients.json").read_text())
    assert record["defences"] == ["none", "clip=0.01", "poisson=2"]
    assert [cell["attack"] for cell in record["cells"]] == ["analytic", "inverting"] * 3
    done = cli("leakage", "gradients", "model", "--update", "run/updates/0.safetensors", "--attack", "analytic", "--out", "saved")
    assert f"labels {record['cells'][0]['each']['label'][0]}; the originals are not known" in done.output
    for wrong in ([], ["--data", "digits", "--update", "x"]):
        with pytest.raises(ConfigError, match="either --data D"):
            cli("leakage", "gradients", "model", "--out", "none", *wrong)
    with pytest.raises(ConfigError, match="Unknown defence 'dp'"):
        cli(*command, "--defence", "dp=1")


@pytest.mark.parametrize("queries", [[], ["--queries", "noise", "--answers", "labels"]])
def test_extraction(cli, model, tmp_path, queries):
    command = ["leakage", "extract", "model", "--data", "digits", "--samples", "60", "--train-steps", "3", "--steps", "2"]
    done = cli(*command, "--budgets", "20,40", "--copy", "mlp", "--neuron", "relu", "--out", "run", *queries)
    assert "40 queries" in done.output
    record = json.loads((tmp_path / "run" / "extraction.json").read_text())
    assert [row["queries"] for row in record["copies"]] == [20, 40]
    assert record["queries"]["name"] == ("noise" if queries else "digits")
    assert record["copy"]["neuron"] == "relu"
    assert record["attack"]["answers"] == ("labels" if queries else "soft")
    with pytest.raises(ConfigError, match="whole numbers with commas"):
        cli(*command, "--budgets", "few", "--out", "x")
