"""A whole federation in this process: killed anywhere, with bad clients, under privacy and secure aggregation, against slow references."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from trustsnn.errors import RunError
from trustsnn.federated.poison import BACKDOORS, POISONS


class KilledError(BaseException):
    """The process ends here."""


class Cut:
    """A grid that ends the process as soon as the first message of a kind in a round has been answered."""

    def __init__(self, round_, kind):
        self.round, self.kind = round_, kind

    def __call__(self, grid):
        self.grid = grid
        return self

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, timeout=None):
        answers = []
        for message in messages:
            answers += self.grid.send_and_receive([message])
            if message.metadata.message_type == self.kind and message.content["config"]["round"] == self.round:
                raise KilledError
        return answers


def cut_told(round_):
    """Ends the process when the round is done."""

    def told(row):
        if row["round"] == round_:
            raise KilledError

    return told


DP = {"sigma": 1.0, "accountant": "rdp", "seeded": True}
SAMPLES = {"unit": "sample", **DP}
HALF = {"clients": 4, "fraction": 0.5, "rounds": 3}
KINDS = {
    "plain": {},
    "conv, fedlec, dirichlet": {"model": "conv", "loss": "fedlec", "partition": "dirichlet:1:minimum=10"},
    "top-k": {"compression": "top-k:0.05"},
    "quantised": {"compression": "quantised:4"},
    "local statistics": {"statistics": "local"},
    "local statistics, top-k, fraction": {"statistics": "local", "compression": "top-k:0.1", **HALF},
    "clients' privacy": {"privacy": {**DP, "sigma": 0.15, "adaptive": True}, **HALF},
    "samples' privacy, fraction": {"norm": "none", "privacy": SAMPLES, **HALF},
    "samples' privacy, budget": {"norm": "none", "privacy": {**SAMPLES, "budget": 6.0}, "rounds": 4},
    "secure": {"secure": {}, "rounds": 3},
    "secure, clients' privacy": {"secure": {}, "privacy": DP},
    "devices": {"clients": 4, "fleet": {"dropout": 0.3, "stragglers": 0.5, "straggler_work": 0.5}, "local": {"batch_size": 16, "epochs": 2}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_federation_that_is_killed_ends_as_one_that_is_not(begun, ended, outcome, tmp_path, kind):
    """In the middle of every round, while clients measure the model, and after it."""
    config, start = begun(**KINDS[kind])
    whole = ended(config, start, tmp_path / "whole")
    stages = ["train.unmask", "train.masked", "train.shares"] if config.secure is not None else ["train"] * 3
    deaths = 0
    for round_, stage in enumerate(stages[: config.rounds], 1):
        for cut in ({"grid": Cut(round_, stage)}, {"grid": Cut(round_, "evaluate")}, {"told": cut_told(round_)}):
            try:
                ended(config, start, tmp_path / "killed", **cut)
            except KilledError:
                deaths += 1
    server = ended(config, start, tmp_path / "killed")
    assert deaths >= 6
    assert outcome(server) == outcome(whole)
    assert server.rounds.round == config.rounds
    if config.privacy is not None:
        assert server.collector.ledger.rows() == whole.collector.ledger.rows()


# Bad clients.


class Bad:
    """The app of the clients, of whom number 1 answers messages of one type otherwise: by `change` of its answer and of the message."""

    def __init__(self, kind, change):
        self.kind, self.change = kind, change

    def __call__(self, app):
        def answer(message, context):
            found = app(message, context)
            if context.node_config["partition-id"] != 1 or not message.metadata.message_type.startswith(self.kind):
                return found
            return self.change(found, message)

        return answer


def fails(answer, message):
    raise RuntimeError("no power")


def says(**records):
    """Its answer with other records; None takes one away."""

    def change(answer, message):
        content = {**{name: answer.content[name] for name in answer.content}, **records}
        return Message(RecordDict({name: each for name, each in content.items() if each is not None}), reply_to=message)

    return change


def tells(**figures):
    """Its answer with other figures; None takes one away."""

    def change(answer, message):
        told = {**answer.content["metrics"], **{name.replace("_", "-"): each for name, each in figures.items()}}
        return says(metrics=MetricRecord({name: each for name, each in told.items() if each is not None}))(answer, message)

    return change


def sends(data, kind="numpy.ndarray"):
    """Its tensors with these bytes for each."""

    def change(answer, message):
        arrays = {name: Array(dtype="float32", shape=each.shape, stype=kind, data=data) for name, each in answer.content["arrays"].items()}
        return says(arrays=ArrayRecord(arrays))(answer, message)

    return change


def stored(save, *what):
    stream = io.BytesIO()
    save(stream, *what)
    return stream.getvalue()


def in_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", b"x" * 100)
    return stream.getvalue()


HUGE = stored(np.save, np.zeros(3, np.float32)).replace(b"(3,), }" + b" " * 14, b"(3000000000000000,), }")[:200]

USELESS = {
    "is another": tells(client=2),
    "is nobody": tells(client=None),
    "is a fraction": tells(client=1.0),
    "is several": tells(client=[1, 1]),
    "has no figures": says(metrics=None),
    "has no records": says(metrics=None, arrays=None),
    "has no tensors": says(arrays=None),
    "has figures for tensors": says(arrays=MetricRecord({"a": 1.0})),
    "has tensors for figures": says(metrics=ArrayRecord({"client": Array(np.ones(1))})),
    "has tensors for a record": lambda answer, message: says(record=ArrayRecord({"payload": Array(np.ones(1))}))(answer, message),
    "has a text for a payload": says(record=ConfigRecord({"payload": "x" * 100})),
    "sends junk": sends(b"junk"),
    "sends nothing": sends(b""),
    "sends a zip": sends(in_zip()),
    "sends a broken zip": sends(b"PK\x03\x04junk"),
    "sends several arrays": sends(stored(np.savez, np.zeros(3, np.float32))),
    "sends a pickle": sends(stored(lambda stream, each: np.save(stream, each, allow_pickle=True), np.array([{}], dtype=object))),
    "sends more than there is memory": sends(HUGE),
    "sends another kind": sends(b"junk", "torch.tensor"),
    "sends text": sends(stored(np.save, np.array("abc"))),
}  # fmt: skip


@pytest.fixture(scope="module")
def without_1(begun, ended, tmp_path_factory):
    """The weights of a federation of which client 1 never answers."""
    return ended(*begun(), tmp_path_factory.mktemp("without"), app=Bad("train", fails)).rounds.arrays


def same(one, two):
    return one.keys() == two.keys() and all(one[name].tobytes() == two[name].tobytes() for name in one)


@pytest.mark.parametrize("kind", USELESS)
def test_the_rounds_go_on_without_a_client_whose_answer_is_of_no_use(begun, ended, tmp_path, without_1, kind):
    server = ended(*begun(), tmp_path, app=Bad("train", USELESS[kind]))
    print(kind, server.rounds.rows[0]["failed"], server.rounds.rows[0]["refused"])
    assert same(server.rounds.arrays, without_1)
    for row in server.rounds.rows:
        assert row["asked"] == [0, 1, 2]
        assert row["combined"] == 2
        assert list({**row["failed"], **row["refused"]}) == ["1"]
        assert len({**row["failed"], **row["refused"]}["1"]) < 600
        assert set(row["own"]) == {"0", "1", "2"}
    assert json.dumps(server.rounds.rows, allow_nan=False)
