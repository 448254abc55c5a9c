"""Where clients run: Ray's processes give what this one gives, bit for bit, and nothing of them is left behind."""

from __future__ import annotations

import os
import time

import pytest

pytest.importorskip("flwr")

from trustsnn.errors import ConfigError
from trustsnn.federated.apps import client_app
from trustsnn.federated.engine import ENGINES, simulate
from trustsnn.federated.flower import OFFLINE
from trustsnn.federated.server import Server


def children():
    """The processes that this one has begun, and theirs, by number."""
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                with open(f"/proc/{entry.name}/stat") as stream:
                    state, parent = stream.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found = {os.getpid()}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def test_an_unknown_engine_is_one_message():
    with pytest.raises(ConfigError, match="Expected an engine of ray, inline, got 'threads'"):
        simulate("threads", None, 2, lambda grid: None)


def test_what_the_server_raises_inline_is_raised(begun):
    config, _ = begun()

    def lead(grid):
        raise ZeroDivisionError("once")

    with pytest.raises(ZeroDivisionError, match="once"):
        simulate("inline", client_app(config), 3, lead)


def test_nobody_is_called(begun):
    assert client_app(begun()[0]) is not None
    assert {name: os.environ.get(name) for name in OFFLINE} == OFFLINE


@pytest.mark.slow  # Ray takes a quarter of a minute to start
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc for processes that are left")
def test_ray_is_this_process_bit_for_bit_and_leaves_none_behind(begun, ended, outcome, tmp_path):
    pytest.importorskip("ray")
    assert [*ENGINES] == ["ray", "inline"]
    config, start = begun(statistics="local", compression="top-k:0.1", clients=4)
    inline, before = ended(config, start, tmp_path / "inline"), children()
    server, rounds = Server(config, start, tmp_path / "ray" / "rounds"), []

    def lead(grid):
        rounds.append(server.run(grid))
        raise ZeroDivisionError("once")

    with pytest.raises(ZeroDivisionError, match="once") as raised:
        simulate("ray", client_app(config, kept=tmp_path / "ray" / "clients", threads=1), config.clients, lead, workers=2)
    assert raised.value.__context__ is None
    assert len(rounds) == 1
    assert outcome(server) == outcome(inline)
    ends = time.monotonic() + 10
    while children() != before and time.monotonic() < ends:  # threads of Flower ask the system what it is, for a moment
        time.sleep(0.1)
    assert children() == before
