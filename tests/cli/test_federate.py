"""`trustsnn federate`: what it says and writes, exit codes, and one message for a mistake."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("flwr")

from trustsnn.errors import ConfigError, DataError, RunError

NETWORK = ["--data", "digits", "--model", "mlp", "--channels", 0.1, "--steps", 2]
QUICK = [*NETWORK, "--clients", 3, "--rounds", 1, "--partition", "iid", "--batch-size", 128, "--engine", "inline"]


def test_a_federation_is_trained_judged_and_not_trained_twice(cli, tmp_path):
    done = cli("federate", *QUICK, "--out", "run", "--fail-under", 1.0)
    assert done.exit_code == 1
    assert "After 1 round with 3 clients the global model is right on" in done.output
    assert "FAILS" in done.output
    assert done.output.strip().endswith("federated.html")
    record = json.loads((tmp_path / "run" / "federated.json").read_text())
    assert record["gate"]["exit_code"] == 1
    assert record["config"]["local"]["batch_size"] == 128
    again = cli("federate", "run", *QUICK, "--out", "run", "--fail-under", 0.0)
    assert again.exit_code == 0
    assert "round 1:" not in again.output
    with pytest.raises(
        RunError, match=r"other settings \(seed, start differ\)|other settings \(architecture, seed, start differ\)"
    ):
        cli("federate", *QUICK, "--out", "run", "--seed", 1)


def test_alpha_is_short_for_a_partition(cli, tmp_path):
    where = ["--clients", 3, "--rounds", 1, "--engine", "inline", "--quiet"]
    cli("federate", *NETWORK, *where, "--alpha", 0.7, "--out", "one")
    cli("federate", *NETWORK, *where, "--partition", "dirichlet:alpha=0.7", "--out", "two")
    one, two = (json.loads((tmp_path / name / "federated.json").read_text()) for name in ("one", "two"))
    assert one["partition"] == two["partition"]
    assert one["model"]["hash"] == two["model"]["hash"]


def test_a_checkpoint_is_gone_on_from(cli, tmp_path):
    cli("federate", *QUICK, "--out", "first", "--quiet")
    first = json.loads((tmp_path / "first" / "federated.json").read_text())
    cli("federate", *QUICK, "--out", "second", "--quiet", "--model", "first/model")
    second = json.loads((tmp_path / "second" / "federated.json").read_text())
    assert second["config"]["start"] == first["model"]["hash"] != first["config"]["start"]
    assert second["rounds"][0]["clients"]["0"]["loss"] < first["rounds"][0]["clients"]["0"]["loss"]


MISTAKES = {
    "more clients than samples": (["--clients", 1438], "Expected 1 to 1437 clients for 1437 samples, got 1438"),
    "no clients": (["--clients", 0], "clients: Input should be greater than or equal to 1, got 0"),
    "no rounds": (["--rounds", 0], "rounds: Input should be greater than or equal to 1, got 0"),
    "alpha and partition": (["--alpha", 0.5], "Give --alpha or --partition, not both"),
    "unknown partition": (["--partition", "dirichlt:0.5"], "Unknown partition 'dirichlt'. .*Did you mean 'dirichlet'"),
    "alpha of 0": (["--partition", "dirichlet:alpha=0"], "alpha of the partition 'dirichlet' as a number above 0 to .*, got 0"),
    "alpha below 0": (["--partition", "dirichlet:alpha=-1"], "alpha of the partition 'dirichlet' as a number above 0 to .*, got -1"),
    "unknown strategy": (["--strategy", "fedavgg"], "Unknown strategy 'fedavgg'. .*Did you mean 'fedavg'"),
    "setting of a strategy": (["--strategy", "krum:beta=1"], "strategy 'krum' has no setting 'beta'"),
    "unknown loss": (["--loss", "fedprx"], "Unknown loss 'fedprx'. .*Did you mean 'fedprox'"),
    "setting of a loss": (["--loss", "fedprox:mu=-1"], "mu of the loss 'fedprox' as a number from 0, got -1"),
    "unknown compression": (["--compression", "top"], "Unknown compression 'top'. Known: none, top-k, quantised"),
    "setting of a compression": (["--compression", "top-k:2"], "share of the compression 'top-k' as a number above 0 to 1, got 2"),
    "fraction of 0": (["--fraction", 0], "fraction: Input should be greater than 0, got 0"),
    "fraction above 1": (["--fraction", 1.5], "fraction: Input should be less than or equal to 1, got 1.5"),
    "holdout of all": (["--holdout", 1], "holdout: Input should be less than 1, got 1"),
    "batches of one": (["--batch-size", 1], "local.batch_size: Input should be greater than or equal to 2, got 1"),
    "unknown optimizer": (["--optimizer", "adam"], "local.optimizer: Input should be 'sgd' or 'adamw', got 'adam'"),
    "rate of 0": (["--lr", 0], "local.learning_rate: Input should be greater than 0, got 0"),
    "endless rate": (["--lr", "inf"], "local.learning_rate: Input should be a finite number, got inf"),
    "unknown augmentation": (["--augment", "flips"], "augmentation.*'flips'"),
    "unknown statistics": (["--statistics", "global"], "statistics: Input should be 'aggregated' or 'local', got 'global'"),
    "unknown model": (["--model", "vgg99"], "vgg99"),
    "unknown engine": (["--engine", "threads"], "Expected an engine of ray, inline, got 'threads'"),
    "unknown unit of privacy": (["--privacy", "clients:sigma=1"], "privacy.unit: Input should be 'client' or 'sample', got 'clients'"),
    "privacy of no size": (["--privacy", "client"], "Expected either eps or sigma"),
    "privacy of samples with batch norm": (["--privacy", "sample:sigma=1"], "mixes the samples of a batch"),
    "privacy of samples with fedlec": (["--privacy", "sample:sigma=1", "--loss", "fedlec"], "goes with cross-entropy, not with 'fedlec'"),
    "secure with krum": (["--secure", "--strategy", "krum"], "Secure aggregation gives a sum alone"),
    "secure of one": (["--secure", "--clients", 1], "at least 2 clients of a secure aggregation"),
    "gate in percent": (["--fail-under", 95], "Expected an accuracy from 0 to 1 as the gate"),
    "bad client that is none": (["--poison", "9=nan"], "Expected bad clients from 0 to 2, got 9"),
    "bad client of no kind": (["--poison", "0=wild"], "Unknown kind of bad client 'wild'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_message(cli, tmp_path, kind):
    given, message = MISTAKES[kind]
    with pytest.raises((ConfigError, DataError)) as raised:
        cli("federate", *QUICK, "--out", "run", *given)
    said = str(raised.value)
    assert re.search(message, said)
    assert "\n" not in said
    if kind != "unknown engine":
        assert not (tmp_path / "run" / "federation.json").exists()


def test_what_is_no_number_is_refused_by_the_option(cli):
    done = cli("federate", *QUICK, "--out", "run", "--clients", "many")
    assert done.exit_code == 2
    assert "Invalid value" in done.output


def test_unknown_data_is_one_message(cli):
    with pytest.raises((ConfigError, DataError), match="digts"):
        cli("federate", "--data", "digts", "--out", "run")
