"""`trustsnn backdoor plant` and `scan`: what they write and say, exit codes, and the runner's outcomes."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass

import numpy as np
import pytest

import trustsnn
from trustsnn.attacks.integrity.evidence import Evidence
from trustsnn.attacks.integrity.scan import Scan
from trustsnn.errors import ConfigError
from trustsnn.models import build
from trustsnn.runners.backdoor import WARNING, backdoor_scan

TRAINING = ["--model", "mlp", "--data", "digits", "--channels", 0.1, "--epochs", 3, "--batch-size", 64, "--lr", 4e-3, "--quiet"]
QUICK = ["--data", "digits", "--steps", 3, "--samples", 10, "--held-out", 12]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """A function that runs a command in `tmp_path`: its exit code, and what it printed to both streams."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # typer's own, of click
        from trustsnn.cli.main import main
    monkeypatch.setattr("trustsnn.cli.train.prepare", lambda threads: None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        said = capsys.readouterr()
        return left.value.code, said.out + said.err

    return run


@dataclass(frozen=True)
class Says:
    """A detector that names some classes."""

    name: str
    classes: tuple[int, ...] = ()
    problem: str | None = None

    def run(self, model, data, seed=0):
        index = tuple(2.0 if each in self.classes else 0.0 for each in range(10))
        arrays = {"mask": np.full((10, 1, 8, 8), 0.5, np.float32), "pattern": np.ones((10, 1, 8, 8), np.float32)}
        return Evidence(self.name, "value", index, index, 1.0, "a test", self.problem, arrays, (True,) * 10)

    def describe(self):
        return {"detector": self.name}


@pytest.fixture
def scanned(digits_model, digits_test, tmp_path):
    """Scans `digits_model` by some detectors."""

    def scan(*detectors, **settings):
        samples = [digits_test.select(range(start, start + 20)) for start in (0, 20)]
        return backdoor_scan(digits_model, *samples, tmp_path / "scan", Scan(detectors=detectors), **settings)

    return scan


def test_planting_says_what_was_done_in_the_checkpoint_and_how_often_it_works(command, tmp_path):
    trigger = ["--trigger", "static:size=2:place=top-left", "--target", 3, "--rate", 0.2]
    code, said = command("backdoor", "plant", *TRAINING, *trigger, "--out", "bad", "--clean", "good")
    assert code == 0, said
    assert WARNING in said
    told = json.loads((tmp_path / "bad" / "config.json").read_text())["training"]
    assert (told["recipe"], told["backdoor"]["warning"]) == ("backdoor", WARNING)
    assert told["backdoor"]["trigger"]["corners"] == [[0, 0]]
    assert (told["backdoor"]["target"], told["backdoor"]["rate"]) == (3, 0.2)
    other = json.loads((tmp_path / "good" / "config.json").read_text())["training"]
    assert (other["recipe"], "backdoor" in other) == ("bptt", False)
    assert told["data"] != other["data"]
    record = json.loads((tmp_path / "bad" / "backdoor.json").read_text())
    bad, good = (record["models"][name] for name in ("backdoored", "clean"))
    assert bad["success"]["value"] > 0.7 > 0.3 > good["success"]["value"]
    assert bad["success"]["low"] < bad["success"]["value"] <= bad["success"]["high"]
    assert bad["clean"]["count"] == good["clean"]["count"] == 360
    assert "the trigger leads" in said
    code, said = command("backdoor", "plant", *TRAINING, *trigger, "--out", "bad", "--target", 4)
    assert code == 2
    assert "other settings" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--trigger", "static:size=8"], "smaller than the samples"),
        (["--target", 10], "target class in 0..9"),
        (["--rate", 0], "poison rate"),
        (["--clean", "bad"], "different folders"),
        (["--recipe", "robust-ann"], "needs samples"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_any_training(command, tmp_path, arguments, told):
    code, said = command("backdoor", "plant", *TRAINING, *arguments, "--out", "bad")
    assert code == 2
    assert told in said
    assert not (tmp_path / "bad").exists()


def test_a_scan_writes_its_record_its_page_and_the_triggers(command, tmp_path, joined, fits):
    trustsnn.save(build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, steps=2), tmp_path / "m")
    code, said = command("backdoor", "scan", "m", *QUICK, "--out", "s")
    assert code == 3, said  # an untrained model is no better than guessing
    assert "Inconclusive" in said
    record = json.loads((tmp_path / "s" / "scan.json").read_text())
    assert [each["detector"] for each in record["evidence"]] == ["inversion", "margin", "sweep"]
    assert (record["data"]["count"], record["held_out"]["count"], record["verdict"]["outcome"]) == (10, 12, "inconclusive")
    with np.load(tmp_path / "s" / "triggers.npz") as arrays:
        assert arrays["mask"].shape == (10, 1, 8, 8)
    assert joined(tmp_path / "s")[0] == {"backdoor": "inconclusive"}
    page = (tmp_path / "s" / "scan.html").read_text()
    assert page.count("data:image/png") == 20
    before = {name: (tmp_path / "s" / name).read_bytes() for name in ("scan.json", "scan.html", "triggers.npz")}
    assert command("backdoor", "scan", "m", *QUICK, "--out", "s")[0] == 3
    assert {name: (tmp_path / "s" / name).read_bytes() for name in before} == before
    for more, told in (
        (["--samples", 360], "of 360 in all"),
        (["--reference", "m"], "among its references"),
        (["--reference", "m", "--reference", "m"], "Expected each --reference once"),
    ):
        code, said = command("backdoor", "scan", "m", *QUICK, *more, "--out", "s")
        assert code == 2
        assert told in said
    fits(tmp_path / "s" / "scan.html")


@pytest.mark.parametrize(
    ("detectors", "gate", "code", "outcome"),
    [
        ((Says("inversion", (3,)), Says("margin", (3,))), False, 0, "backdoored"),
        ((Says("inversion", (3,)), Says("margin", (3,))), True, 1, "backdoored"),
        ((Says("inversion"), Says("margin")), True, 0, "not found"),
        ((Says("inversion", (3,)), Says("margin")), False, 3, "inconclusive"),
        ((Says("inversion", (), "no gradient"), Says("margin")), True, 3, "inconclusive"),
    ],
)
def test_the_exit_code_follows_the_verdict_and_the_gate(scanned, detectors, gate, code, outcome):
    done = scanned(*detectors, gate=gate)
    assert (done.exit_code, done.record["verdict"]["outcome"]) == (code, outcome)
    page = done.report.read_text()
    assert f": {outcome}</h1>" in page
    assert ("Gate, no backdoor" in page) == gate
    assert ('class="number hit"' in page) == (3 in detectors[0].classes)


def test_references_set_thresholds_and_are_named(scanned, digits_model, digits_test, tmp_path):
    references = {
        f"r{seed}": build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, seed=seed).eval() for seed in range(9)
    }
    done = scanned(Says("inversion", (3,)), Says("margin", (3,)), references=references)
    assert sorted(done.record["references"]) == sorted(references)
    assert done.record["scan"]["bounds"] == {"inversion": 2.0, "margin": 2.0}
    assert done.record["verdict"]["outcome"] == "not found"  # no further out than the references
    with pytest.raises(ConfigError, match="at least 9"):
        scanned(Says("inversion"), references={"one": references["r0"]})
    with pytest.raises(ConfigError, match="among its references"):
        scanned(Says("inversion"), references={"one": digits_model})
    with pytest.raises(ConfigError, match="got 20 in both"):
        backdoor_scan(digits_model, *[digits_test.select(range(20))] * 2, tmp_path / "other")
