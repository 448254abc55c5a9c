"""A whole federation in this process: killed anywhere, with bad clients, under privacy and secure aggregation, against slow references."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")


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
