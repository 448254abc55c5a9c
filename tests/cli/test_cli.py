"""The command line as a user meets it: every mistake is one message, with its exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import trustsnn
from trustsnn.models import build


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "trustsnn", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(digits_model, tmp_path_factory):
    return trustsnn.save(digits_model, tmp_path_factory.mktemp("models") / "digits")


def test_train_audit_report_compare_inspect(tmp_path, here):
    trained = run("train", "bptt", "--model", "mlp", "--data", "digits", "--epochs", "6", "--out", "m", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "test samples correct (95 % interval" in trained.stdout
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "manifest.json", "model.safetensors", "training"]
    assert len((tmp_path / "m" / "training" / "log.csv").read_text().splitlines()) == 7
    (tmp_path / "audit.yaml").write_text("samples: 40\neps: [0.05, '8/255']\ngates: [clean_accuracy >= 0.3]\n")
    audited = run("audit", "m", "--data", "digits", "--config", "audit.yaml", "--out", "r", cwd=tmp_path)
    assert audited.returncode == 0, audited.stderr
    assert audited.stdout.startswith("pass:")
    assert "[7/7]" in audited.stderr
    assert json.loads((tmp_path / "r" / "run.json").read_text())["config"]["command"].endswith("--config audit.yaml --out RUN")
    before = (tmp_path / "r" / "run.json").read_bytes()
    failed = here("report", "r", "--format", "md", "--gate", "clean_accuracy >= 1.0", cwd=tmp_path)
    assert failed.returncode == 1
    assert (tmp_path / "r" / "run.json").read_bytes() == before
    assert here("report", "r", cwd=tmp_path).returncode == 0
    other = here(
        "audit", "m", "--data", "digits", "--samples", "40", "--eps", "0.05", "--attacks", "pgd", "--out", "s", cwd=tmp_path
    )
    assert other.returncode == 0
    compared = here("compare", "r", "s", cwd=tmp_path)
    assert compared.returncode == 0
    assert "0.05" in compared.stdout
    inspected = here("inspect", "m", cwd=tmp_path)
    assert "SpikingNeuron(leak=0.5" in inspected.stdout
    again = here("train", "bptt", "--model", "mlp", "--data", "digits", "--epochs", "6", "--out", "m", cwd=tmp_path)
    assert again.returncode == 0
    assert "[6/6]" not in again.stderr  # nothing is trained twice


OWN = """
import torch, trustsnn
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)
    def forward(self, x):
        return self.linear(x.flatten(1))
def make():
    return trustsnn.wrap(Net(), time_steps=1)
def raises():
    raise KeyError("no weights here")
bare = Net()
number = 3
"""

BAD_AUDITS = {
    "missing checkpoint": (["nowhere", "--data", "digits"], 2, "no checkpoint folder"),
    "unknown data": (["MODEL", "--data", "digitz"], 2, "Did you mean 'digits'"),
    "missing data": (["MODEL", "--data", "mnist", "--data-root", "empty"], 2, "--data-root"),
    "negative eps": (["MODEL", "--data", "digits", "--eps=-0.1"], 2, "at least 0"),
    "no number": (["MODEL", "--data", "digits", "--samples", "many"], 2, "many"),
    "unknown option": (["MODEL", "--data", "digits", "--epsilon", "1"], 2, "--epsilon"),
    "image attack on events": (["EVENTS", "--data", "events:digits", "--attacks", "pgd"], 2, "For it: sda, spikefool"),
    "eps of pixels on events": (["EVENTS", "--data", "events:digits", "--eps", "2/255"], 2, "whole numbers of events"),
    "unknown corruption": (["MODEL", "--data", "digits", "--corruptions", "fogg"], 2, "Did you mean 'fog'"),
    "no severity": (["MODEL", "--data", "digits", "--corruptions", "fog", "--severities", "1,x"], 2, "severities.1"),
    "unknown attack": (["MODEL", "--data", "digits", "--attacks", "pgdd"], 2, "Did you mean 'pgd'"),
    "unknown key": (["MODEL", "--data", "digits", "--config", "bad.yaml"], 2, "epz: unknown key"),
    "missing config": (["MODEL", "--data", "digits", "--config", "none.yaml"], 2, "no configuration file"),
    "bad gate": (["MODEL", "--data", "digits", "--gate", "clean >= 1"], 2, "Expected a gate"),
    "no threads": (["MODEL", "--data", "digits", "--threads", "0"], 2, "at least 1 thread"),
    "pickle": (["theirs", "--data", "digits"], 4, "is a pickle"),
    "truncated": (["cut", "--data", "digits"], 4, "altered or cut short"),
    "nan image": (["MODEL", "--data", "nan.npz"], 2, "sample 2"),
    "object array": (["MODEL", "--data", "object.npz"], 4, "pickle"),
    "empty idx": (["MODEL", "--data", "mnist", "--data-root", "emptyidx"], 2, "t10k-images"),
    "label out of range": (["MODEL", "--data", "label.npz"], 2, "label"),
    "no such callable": (["own:nothing", "--data", "digits"], 2, "no 'nothing'"),
    "callable raises": (["own:raises", "--data", "digits"], 2, "no weights here"),
    "no spec": (["own:bare", "--data", "digits"], 2, "trustsnn.wrap"),
    "no model": (["own:number", "--data", "digits"], 2, "int"),
    "syntax error": (["syntax:make", "--data", "digits"], 2, "SyntaxError"),
}


@pytest.fixture(scope="module")
def mistakes(checkpoint, tmp_path_factory):
    """A folder with one broken thing of each kind."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "own.py").write_text(OWN)
    trustsnn.save(build("mlp", input_shape=(4, 2, 10, 10), classes=10, domain="events-binary"), folder / "events")
    (folder / "syntax.py").write_text("def make(:\n")
    (folder / "bad.yaml").write_text("epz: [0.1]\n")
    (folder / "empty").mkdir()
    (folder / "emptyidx" / "MNIST" / "raw").mkdir(parents=True)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / "emptyidx" / "MNIST" / "raw" / name).touch()
    (folder / "theirs").mkdir()
    (folder / "theirs" / "model.pt").write_bytes(pickle.dumps({"w": 1}))
    (folder / "cut").mkdir()
    for path in checkpoint.iterdir():
        content = path.read_bytes()
        (folder / "cut" / path.name).write_bytes(content[:-7] if path.suffix == ".safetensors" else content)
    x, y = np.full((4, 1, 8, 8), 0.5, dtype=np.float32), np.arange(4)
    np.savez(folder / "label.npz", x=x, y=np.array([0, 1, 2, 12]))
    bad = x.copy()
    bad[2, 0, 3, 3] = np.nan
    np.savez(folder / "nan.npz", x=bad, y=y)
    np.savez(folder / "object.npz", x=np.array([{"a": 1}] * 4, dtype=object), y=y)
    return folder


@pytest.mark.parametrize("name", BAD_AUDITS)
def test_a_mistake_is_one_message(name, mistakes, checkpoint, tmp_path, here):
    arguments, code, message = BAD_AUDITS[name]
    arguments = [{"MODEL": str(checkpoint), "EVENTS": "events"}.get(a, a) for a in arguments]
    result = here("audit", *arguments, "--quiet", "--out", tmp_path / "run", cwd=mistakes)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith(("error:", "Usage:"))
    assert not (tmp_path / "run").exists()


def test_a_model_of_the_users_own(mistakes, tmp_path):
    result = run(
        "audit", "own:make", "--data", "digits", "--samples", "40", "--eps", "0.1", "--out", tmp_path / "r", cwd=mistakes
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "conv9", "--data", "digits"], "Known: mlp"),
        (["--model", "mlp", "--data", "digits", "--threads", "0"], "at least 1 thread"),
        (["--model", "mlp", "--data", "digits", "--batch-size", "0"], "batch_size"),
        (["--model", "mlp", "--data", "digits", "--channels", "nan"], "channels"),
        (["--model", "mlp", "--data", "digits", "--seed", "99999999999999999999999"], "seed"),
        (["--model", "mlp", "--data", "digits", "--encoder", "morse"], "Known: direct"),
        (["--model", "mlp", "--data", "digits", "--leak", "2"], r"[0, 1]"),
        (["--model", "mlp", "--data", "digits", "--sparse", "random"], "give --sparsity"),
    ],
)
def test_a_mistake_in_training_is_one_message(arguments, message, tmp_path, here):
    result = here("train", "bptt", *arguments, "--out", "m", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_network_of_alpha_synapses_is_trained_and_goes_on(tmp_path, here):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    x = 0.1 * rng.random((60, 1, 4, 4), dtype=np.float32)
    x[np.arange(60), 0, 0, y] = 1  # the class is in one pixel
    np.savez(tmp_path / "easy.npz", x=x, y=y)
    words = [
        "train",
        "alpha",
        "--data",
        "easy.npz",
        "--hidden",
        "10",
        "--epochs",
        "40",
        "--batch-size",
        "8",
        "--out",
        "m",
        "--quiet",
    ]
    result = here(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("m: 100.00% of 12 test samples correct")
    assert trustsnn.load(tmp_path / "m").architecture["arguments"]["hidden"] == 10
    again = here(*words, cwd=tmp_path)
    assert again.stdout.rsplit(",", 1)[0] == result.stdout.rsplit(",", 1)[0]


def test_a_projection_is_of_windows(tmp_path, here):
    result = here("train", "onestep", "--data", "digits", "--windows", "none", "--projection", "mean", "--out", "m", cwd=tmp_path)
    assert result.returncode == 2
    assert "--windows none has none" in result.stderr


def test_an_npz_without_splits_is_split_for_training(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "random.npz", x=rng.random((200, 1, 8, 8), dtype=np.float32), y=rng.integers(0, 4, 200))
    result = run(
        "train",
        "bptt",
        "--model",
        "mlp",
        "--data",
        "random.npz",
        "--epochs",
        "12",
        "--batch-size",
        "32",
        "--out",
        "m",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "of 40 test samples" in result.stdout
    assert float(result.stdout.split(": ")[1].split("%")[0]) < 60  # random labels cannot be learnt


def test_natural_shift_and_chips_from_the_command_line(checkpoint, tmp_path, here):
    options = [
        "--attacks",
        "none",
        "--corruptions",
        "fog, jpeg",
        "--severities",
        "1,5",
        "--ood",
        "noise",
        "--gate",
        "mean_corruption_error <= 0.9",
        "--twin",
        "pcm@1h+adc:noise=0,ir-drop",
        "--chips",
        "2",
    ]
    result = here("audit", checkpoint, "--data", "digits", "--samples", "20", *options, "--out", "r", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "[6/16] out of distribution: noise: energy AUROC" in result.stderr
    words = json.loads((tmp_path / "r" / "run.json").read_text())["config"]["command"]
    assert "--corruptions fog,jpeg --severities 1,5 --ood noise" in words
    assert "--twin pcm@1h+adc:noise=0,ir-drop" in words
    assert "--chips 2" in words
    assert "polarity-flip" in here("list", "corruptions", cwd=tmp_path).stdout


def test_a_profile_takes_the_place_of_a_files_attacks(checkpoint, tmp_path, here):
    (tmp_path / "audit.yaml").write_text("samples: 20\neps: 0.1\nattacks: [{attack: fgsm}]\n")
    for options, attacks in (([], {"fgsm"}), (["--profile", "quick"], {"fgsm", "pgd", "snn-autoattack"})):
        out = f"r{len(options)}"
        done = here("audit", checkpoint, "--data", "digits", "--config", "audit.yaml", *options, "--out", out, cwd=tmp_path)
        assert done.returncode in (0, 3), done.stderr
        threats = (json.loads(line)["cell"]["threat"] for line in (tmp_path / out / "cells.jsonl").read_text().splitlines())
        assert {threat["attack"] for threat in threats} - {"none"} == attacks


def test_a_failed_gate_exits_1_and_nothing_else_does(checkpoint, tmp_path):
    result = run(
        "audit", checkpoint, "--data", "digits", "--samples", "40", "--eps", "0.2", "--gate", "robust_accuracy[linf,0.2] >= 0.99",
        "--out", "r", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stdout.startswith("fail:")
    assert "failure" in (tmp_path / "r" / "junit.xml").read_text()


def test_help_is_plain(here, tmp_path):
    assert "[default: 4]" in here("train", "bptt", "--help", cwd=tmp_path).stdout.replace("\\[", "escaped")
