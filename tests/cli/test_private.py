"""`trustsnn convert --method private`: what it writes and says, and that no data set is opened on the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import sklearn.datasets

import trustsnn
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError

EMBEDDED = os.path.join(os.path.dirname(sklearn.datasets.__file__), "data")  # where the digits are

# Runs the command; refuses whatever opens a file below one of the folders in the first argument, or loads a data set by name.
WATCHED = """
import json, os, sys
forbidden = json.loads(sys.argv.pop(1))

def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if any(path.startswith(folder) for folder in forbidden):
            raise PermissionError(f"data was opened: {path}")

sys.addaudithook(watch)
import trustsnn.data.registry as registry
import trustsnn.data as data

def refuse(*arguments, **named):
    raise PermissionError("a data set was loaded")

data.load = registry.load = refuse
from trustsnn.cli.main import main
main()
"""
TINY = ["--samples", 12, "--iterations", 4, "--epochs", 1, "--batch-size", 4, "--calibration", 8, "--quiet", "--threads", 1]


def command(*arguments, watched=None, code=0, **environment):
    """What the command prints; its error where it is to exit with another code than 0."""
    start = (
        ["-m", "trustsnn"] if watched is None else ["-c", WATCHED, json.dumps([os.path.realpath(folder) for folder in watched])]
    )
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **environment}, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture
def here(monkeypatch):
    """A function that runs a command in this process, for speed, and raises what it ends with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # typer's own, of click
        from typer.testing import CliRunner

        from trustsnn.cli.leakage import leakage_app
        from trustsnn.cli.main import app
    monkeypatch.setattr("trustsnn.cli.train.prepare", lambda threads: None)

    def invoke(*arguments):
        whole = leakage_app if arguments[0] == "class" else app
        return CliRunner().invoke(whole, [*map(str, arguments)], catch_exceptions=False)

    return invoke


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the data set that the ANN was trained on."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = np.clip(generator.random((60, 1, 8, 8)) * 0.3 + (np.arange(8) // 3 == y[:, None, None, None]) * 0.6, 0, 1)
    np.savez(folder / "real.npz", x=(x * 255).astype(np.uint8), y=y)
    return folder


@pytest.fixture(scope="module")
def ann(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "ann"
    given = ["--model", "mlp", "--channels", 0.1, "--epochs", 3, "--batch-size", 8, "--quiet", "--threads", 1]
    command("train", "ann", "--data", data / "real.npz", "--out", out, *given)
    return out


def test_no_data_set_is_opened(ann, data, tmp_path):
    given = ["convert", ann, "--out", tmp_path / "snn", "--steps", 3]
    said = command(*given, "--method", "private", *TINY, watched=[data, EMBEDDED], TRUSTSNN_DATA=str(data))
    assert "No data set was read" in said
    assert "of 12 synthetic images (95 % interval" in said
    spiking = trustsnn.load(tmp_path / "snn")
    assert (spiking.spec.steps, spiking.spec.encoder) == (3, "poisson")
    told = json.loads((tmp_path / "snn" / "config.json").read_text())["training"]
    assert (told["method"], told["ann"]) == ("private", model_hash(trustsnn.load(ann)))
    assert told["images"]["samples"] == 12
    assert told["training"]["epochs"] == 1


@pytest.mark.parametrize("name", ["digits", "real.npz"])
def test_the_watch_sees_a_data_set_that_is_opened(ann, data, tmp_path, name):
    """Each half of it by itself: `load` refused, and the file behind a loader that was not."""
    given = ["convert", ann, "--out", tmp_path / "snn", "--steps", 3, "--method", "balance"]
    named = name if name == "digits" else data / name
    assert "a data set was loaded" in command(*given, "--data", named, watched=[], code=3)
    opens = (
        "import numpy; numpy.load(sys.argv.pop(1)); "
        if name != "digits"
        else "from sklearn.datasets import load_digits; load_digits(); "
    )
    watched = json.dumps([os.path.realpath(folder) for folder in (data, EMBEDDED)])
    code = WATCHED.replace("from trustsnn.cli.main import main\nmain()", opens)
    done = subprocess.run(
        [sys.executable, "-c", code, watched, str(named)], capture_output=True, text=True, check=False, timeout=120
    )
    assert "data was opened" in done.stderr


def test_the_same_command_gives_the_same_bytes(ann, tmp_path):
    for out in ("a", "b"):
        command("convert", ann, "--out", tmp_path / out, "--method", "private", "--steps", 2, *TINY)
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {"model.safetensors", "part-00000.npz", "state.safetensors"} <= {path.name for path in files}
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "private", "--steps", 3, "--data", "digits", *TINY], "reads no data set, got --data. Leave it out."),
        (["--method", "private", "--steps", 3, "--data-root", "x", "--download", *TINY], "reads no data set, got --data-root, --download."),
        (["--method", "private"], "needs --steps"),
        (["--method", "private", "--steps", 3, "--double", *TINY], "does not take --double"),
        (["--method", "private", "--steps", 3, "--samples", 0], "at least 1 for samples of the synthetic images, got 0"),
        (["--method", "balance", "--steps", 3, "--data", "digits", "--lr", 0.1], "--lr goes with --method private, got --method balance"),
        (["--method", "private", "--steps", 3, *TINY, "--epochs", 0], "--epochs 0 leaves the training out, and --batch-size with it"),
        (["--method", "private", "--steps", 3, "--percentile", 99], "--percentile goes with --method balance, got --method private"),
        (["--method", "rate", "--steps", 3, "--data", "digits", "--percentile", 99], "--percentile goes with --method balance, got --method rate"),
        (["--method", "shift", "--data", "digits", "--initial", 0.5],
         "--initial goes with --method balance or calibrate or calibrate-advanced, got --method shift"),
        (["--method", "balance", "--data", "digits", "--iterations", 5],
         "--iterations goes with --method calibrate-advanced or private, got --method balance"),
        (["--method", "balance", "--steps", 3], "needs --data"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_writes_nothing(here, ann, tmp_path, arguments, message):
    before = {path.name: path.read_bytes() for path in ann.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=re.escape(message)):
        here("convert", ann, "--out", tmp_path / "snn", *arguments)
    assert not (tmp_path / "snn").exists()
    assert {path.name: path.read_bytes() for path in ann.iterdir() if path.is_file()} == before


def test_leakage_class_writes_a_page_and_figures(here, ann, data, tmp_path):
    judge = tmp_path / "judge"
    command("train", "ann", "--model", "conv", "--data", data / "real.npz", "--out", judge, "--channels", 0.1, "--epochs", 6,
            "--batch-size", 8, "--lr", 0.01, "--seed", 1, "--quiet", "--threads", 1)  # fmt: skip
    given = [ann, "--data", data / "real.npz", "--judge", judge, "--out", tmp_path / "run", "--images", 2, "--iterations", 3]
    assert here("class", *given).exit_code == 0
    record = json.loads((tmp_path / "run" / "leakage.json").read_text())
    assert [model["name"] for model in record["models"]] == [str(ann)]
    assert record["models"][0]["attacks"][0]["top1"]["count"] == 6
    assert (tmp_path / "run" / "leakage.html").is_file()
    with pytest.raises(ConfigError, match="each model once"):
        here("class", ann, *given)
