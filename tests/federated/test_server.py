"""A whole federation in this process: killed anywhere, with bad clients, under privacy and secure aggregation, against slow references."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")


class KilledError(BaseException):
    """The process ends here."""


class Cut:
    """A grid that ends the process once so many messages of a kind have been answered, counted from the beginning of the run."""

    def __init__(self, kind, after):
        self.kind, self.after = kind, after

    def __call__(self, grid):
        self.grid = grid
        return self

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, timeout=None):
        answers = []
        for message in messages:
            if message.metadata.message_type.startswith(self.kind):
                self.after -= 1
                if self.after < 0:
                    raise KilledError
            answers += self.grid.send_and_receive([message])
        return answers


def cut_told(after):
    """Ends the process once so many rounds are done."""
    rows = []

    def told(row):
        rows.append(row)
        if len(rows) == after:
            raise KilledError

    return told


DP = {"sigma": 1.0, "accountant": "rdp", "seeded": True}
KINDS = {
    "plain": {},
    "conv, fedlec, dirichlet": {"model": "conv", "loss": "fedlec", "partition": "dirichlet:1:minimum=10"},
    "fraction": {"clients": 4, "fraction": 0.5},
    "top-k": {"compression": "top-k:0.05"},
    "top-k, fraction": {"compression": "top-k:0.05", "clients": 4, "fraction": 0.5},
    "quantised": {"compression": "quantised:4"},
    "local statistics": {"statistics": "local"},
    "local statistics, top-k, fraction": {"statistics": "local", "compression": "top-k:0.1", "clients": 4, "fraction": 0.5},
    "clients' privacy": {"clients": 4, "fraction": 0.5, "privacy": DP},
    "clients' privacy, adaptive": {"clients": 8, "privacy": {**DP, "sigma": 0.5, "adaptive": True}},
    "samples' privacy": {"norm": "none", "privacy": {"unit": "sample", **DP}},
    "samples' privacy, budget": {"norm": "none", "rounds": 4, "privacy": {"unit": "sample", **DP, "budget": 6.0}},
    "secure": {"secure": {}},
    "secure, clients' privacy": {"secure": {}, "privacy": DP},
    "devices": {"clients": 4, "fleet": {"dropout": 0.3, "stragglers": 0.5, "straggler_work": 0.5}, "local": {"batch_size": 16, "epochs": 2}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_federation_that_is_killed_ends_as_one_that_is_not(begun, ended, outcome, tmp_path, kind):
    config, start = begun(**KINDS[kind])
    whole = ended(config, start, tmp_path / "whole")
    deaths = 0
    for cut in (
        {"grid": Cut("query", 1)},
        {"grid": Cut("train", 1)},
        {"grid": Cut("evaluate", 1)},
        {"told": cut_told(1)},
        {"grid": Cut("train", config.asked)},
        {"grid": Cut("train", config.asked - 1)},
        {"grid": Cut("train", config.asked * 2)},
        {"grid": Cut("evaluate", 0)},
        {"told": cut_told(1)},
        {"grid": Cut("evaluate", config.clients - 1)},
        {"told": cut_told(1)},
        {"grid": Cut("train", 0)},
    ):
        try:
            server = ended(config, start, tmp_path / "killed", **cut)
        except KilledError:
            deaths += 1
    server = ended(config, start, tmp_path / "killed")
    assert deaths >= 8
    assert outcome(server) == outcome(whole)
    if "privacy" in KINDS[kind]:
        assert server.collector.ledger.rows() == whole.collector.ledger.rows()
