"""`federate`: what it writes, the same bytes for equal runs, what it refuses, and a killed run that goes on."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("flwr")

from trustsnn.checkpoint import load_network, model_hash
from trustsnn.data import load
from trustsnn.errors import ConfigError, RunError
from trustsnn.federated.config import FederatedConfig
from trustsnn.models import build
from trustsnn.runners.federated import Running, federate

TIMED = ("rounds.csv", "clients.csv", "rounds/state.safetensors")


class KilledError(BaseException):
    """The process ends here."""


def begun(*, weights=0, norm="batch", **settings):
    start = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, steps=2, norm=norm, seed=weights)
    plain = {"data": "digits", "clients": 3, "rounds": 2, "partition": "iid", "local": {"batch_size": 64}}
    return FederatedConfig(architecture=start.architecture, start=model_hash(start), **{**plain, **settings}), start


def run(folder, *, least=None, told=lambda row: None, **settings):
    return federate(*begun(**settings), folder, Running("inline"), least=least, told=told)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A federation with a refused client, a boastful one, and devices that drop out: its folder and its record."""
    folder = tmp_path_factory.mktemp("mixed") / "run"
    poison = {1: "million", 2: "many-samples"}
    done = run(
        folder, clients=5, rounds=3, poison=poison, fleet={"dropout": 0.3, "steps": {"1": 0.5}}, limits={"samples_ratio": 2}
    )
    return folder, done


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_is_written_says_what_came_of_it(mixed):
    folder, done = mixed
    record = json.loads((folder / "federated.json").read_text())
    assert record == json.loads(json.dumps(done.record))
    assert (done.report, done.exit_code, record["gate"]) == (folder / "federated.html", 0, None)
    names = {
        "federation.json",
        "partition.json",
        "rounds.csv",
        "clients.csv",
        "federated.json",
        "federated.html",
        "model",
        "rounds",
    }
    assert {path.name for path in folder.iterdir()} == names
    assert FederatedConfig.read(folder / "federation.json").model_dump(mode="json") == record["config"]
    model = load_network(folder / "model")
    assert record["model"]["hash"] == model_hash(model)
    assert (record["data"]["name"], record["data"]["split"], record["test"]["split"]) == ("digits", "train", "test")
    assert np.sum(record["partition"]["counts"]) == record["data"]["count"]
    assert len(record["devices"]) == 5
    from trustsnn.training import accuracy

    assert record["rounds"][-1]["test"] == dict(accuracy(model, load("digits", "test")))


def test_the_tables_are_those_of_the_record(mixed):
    folder, done = mixed
    rows = done.record["rounds"]
    rounds, clients = table(folder / "rounds.csv"), table(folder / "clients.csv")
    for row, line in zip(rows, rounds, strict=True):
        assert int(line["round"]) == row["round"]
        assert float(line["test_accuracy"]) == row["test"]["value"]
        assert [int(line[name]) for name in ("asked", "combined")] == [len(row["asked"]), row["combined"]]
        assert [int(line[name]) for name in ("failed", "refused", "capped")] == [
            len(row[n]) for n in ("failed", "refused", "capped")
        ]
        assert float(line["seconds"]) > 0
    assert len(clients) == 15
    for line in clients:
        row, client = rows[int(line["round"]) - 1], line["client"]
        assert line["refused"] == row["refused"].get(client, "")
        assert line["failed"] == row["failed"].get(client, "")
        assert [int(line["own_right"]), int(line["own_count"])] == row["own"][client]
        assert (line["loss"] == "") == (client in row["failed"])
        if line["loss"]:
            assert float(line["loss"]) == row["clients"][client]["loss"]
    assert any(line["failed"] == "dropped out" for line in clients)


def test_the_page_names_who_was_left_out_and_asks_nobody(mixed, fits):
    folder, done = mixed
    text = (folder / "federated.html").read_text()
    assert not re.search(r"(?:https?:)?//[\w.]", text.replace("http://www.w3.org", ""))
    assert not re.search(r"<(?:script|link|iframe|object|img)\b", text)
    troubled = {client for row in done.record["rounds"] for name in ("failed", "refused", "capped") for client in row[name]}
    assert {"1", "2"} <= troubled
    trouble = text[text.index('id="trouble"') : text.index('id="how"')]
    for client in troubled:
        assert re.search(rf'<th role="rowheader" scope="row">{client}</th>', trouble)
    for words in ("its norm", "samples counted as", "dropped out", "refused", "capped", "failed"):
        assert words in trouble
    fits(folder / "federated.html")


def test_equal_runs_are_the_same_bytes(mixed, files, tmp_path):
    folder, _ = mixed
    config, start = FederatedConfig.read(folder / "federation.json"), begun()[1]
    federate(config, start, tmp_path / "again", Running("inline"))
    one, two = files(folder), files(tmp_path / "again")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == [name for name in one if name in TIMED]
    assert '"seconds"' not in (folder / "federated.json").read_text()


def test_a_killed_run_goes_on_and_asks_no_finished_round_again(mixed, files, tmp_path):
    folder, _ = mixed
    config, start = FederatedConfig.read(folder / "federation.json"), begun()[1]
    seen = []

    def told(row):
        seen.append(row["round"])
        if len(seen) in (1, 2):
            raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            federate(config, start, tmp_path / "killed", Running("inline"), told=told)
        assert not (tmp_path / "killed" / "federated.json").exists()
    federate(config, start, tmp_path / "killed", Running("inline"), told=told)
    assert seen == [1, 2, 3]
    one, two = files(folder), files(tmp_path / "killed")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == [name for name in one if name in TIMED]


def test_a_finished_run_is_judged_again_without_a_client(mixed, monkeypatch, tmp_path):
    folder, done = shutil.copytree(mixed[0], tmp_path / "run"), mixed[1]
    config, start = FederatedConfig.read(folder / "federation.json"), begun()[1]

    def asked(*arguments, **more):
        raise AssertionError("a client was asked")

    monkeypatch.setattr("trustsnn.runners.federated.simulate", asked)
    value = done.record["rounds"][-1]["test"]["value"]
    for least, code in ((value, 0), (value + 1e-6, 1)):
        judged = federate(config, start, folder, Running("inline"), least=least, told=asked)
        assert judged.record["gate"] == {"bound": least, "value": value, "exit_code": code}
        assert judged.exit_code == code
        assert {**judged.record, "gate": None} == done.record


def test_without_a_global_model_the_gate_cannot_be_decided(tmp_path):
    done = run(tmp_path / "run", rounds=1, statistics="local", holdout=0.0, least=0.5)
    assert done.exit_code == 3
    assert done.record["gate"] == {"bound": 0.5, "value": None, "exit_code": 3}
    assert "cannot be decided" in done.report.read_text()


@pytest.mark.parametrize("least", [-0.1, 1.1, 95, float("nan")])
def test_a_gate_that_is_no_accuracy_is_refused(tmp_path, least):
    with pytest.raises(ConfigError, match="Expected an accuracy from 0 to 1 as the gate"):
        run(tmp_path / "run", least=least)
    assert not (tmp_path / "run").exists()


def test_another_federation_in_the_folder_is_refused_by_what_differs(mixed, files):
    folder, _ = mixed
    before = files(folder)
    with pytest.raises(RunError, match=r"holds a federation of other settings \(clients, fleet, limits, poison, rounds differ\)"):
        run(folder)
    with pytest.raises(RunError, match=r"\(architecture, clients, .*start differ\)"):
        run(folder, weights=1)
    assert files(folder) == before


def test_other_samples_of_the_same_name_are_refused(tmp_path, digits_train):
    x, y = digits_train.batch(np.arange(90))
    path = tmp_path / "few.npz"
    np.savez(path, x=x, y=y, classes=np.arange(10).astype(str))
    run(tmp_path / "run", rounds=1, data=str(path))
    np.savez(path, x=1 - x, y=y, classes=np.arange(10).astype(str))
    with pytest.raises(RunError, match="holds a federation on other samples"):
        run(tmp_path / "run", rounds=1, data=str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clients": 1438}, "Expected 1 to 1437 clients for 1437 samples, got 1438"),
        ({"partition": "shards:per_client=2000"}, "shards"),
        ({"data": "events:digits"}, "does not fit the model"),
        ({"norm": "batch", "privacy": {"unit": "sample", "sigma": 1.0}}, "mixes the samples of a batch"),
        ({"secure": {}, "strategy": "krum"}, "gives a sum alone"),
        ({"poison": {7: "nan"}}, "Expected bad clients from 0 to 2, got 7"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_no_federation_behind(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "run", **settings)
    assert not (tmp_path / "run" / "federation.json").exists()
    assert not (tmp_path / "run" / "federated.json").exists()


def test_after_a_mistake_the_same_folder_can_be_used(tmp_path):
    with pytest.raises(ConfigError):
        run(tmp_path / "run", clients=1438)
    assert run(tmp_path / "run", rounds=1).exit_code == 0


def test_sizes_of_one_are_said_so(tmp_path):
    page = run(tmp_path / "run", clients=1, rounds=1, holdout=0.0).report.read_text()
    assert "After 1 round with 1 client the global model" in page.replace("\u00a0", " ")
