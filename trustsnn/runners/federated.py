"""`trustsnn federate`: a federation simulated on this machine, into a folder that a killed run goes on from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError, RunError
from trustsnn.federated.apps import client_app
from trustsnn.federated.client import Site
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.engine import check_engine, simulate
from trustsnn.federated.foreign import save
from trustsnn.federated.partition import Partition
from trustsnn.federated.rounds import Rounds
from trustsnn.federated.server import Server
from trustsnn.files import write_text
from trustsnn.keys import Key
from trustsnn.models.network import SpikingNetwork
from trustsnn.reports.federated import FORMAT, page
from trustsnn.runners.environment import environment
from trustsnn.runners.judged import Judged
from trustsnn.runners.subject import data_record, model_record
from trustsnn.training.bptt import check_fit

CONFIG, PARTITION = "federation.json", "partition.json"


@dataclass(frozen=True)
class Running:
    """How a federation is simulated, which does not change what comes of it: engine, processes of Ray, threads of each, where data lie, what
    makes a module of the user's own, the key that seals all weights which are written, and for an audit whether the model of every round is
    kept, and of which rounds what each client sent."""

    engine: str = "ray"
    workers: int = 2
    threads: int = 1
    root: Path | None = None
    code: str | None = None
    key: Key | None = None
    keep: bool = False
    look: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_engine(self.engine)
        if self.key is not None and (self.engine != "inline" or self.code is not None):
            raise ConfigError(
                "Sealed weights stay in one process, and bundled networks alone are sealed: a federation of them takes the engine inline "
                "(--engine inline) and no module of one's own."
            )


def federate(
    config: FederatedConfig, start: SpikingNetwork, out: Path, running: Running | None = None, *,
    least: float | None = None, told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Judged:  # fmt: skip
    """Train `start` across simulated clients; write the model, federated.json, federated.html, rounds.csv and clients.csv.

    Args:
        least: a gate: the accuracy on the test split that is wanted of the last round.
        told: called with the row of each finished round.

    Raises:
        RunError: `out` holds another federation.
        ConfigError: settings that do not fit the data or each other.
    """
    running = running or Running()
    if least is not None and not 0 <= least <= 1:
        raise ConfigError(f"Expected an accuracy from 0 to 1 as the gate (--fail-under), got {least}.")
    _same(out / CONFIG, config)
    site = Site(config, running.root, code=running.code)
    test, partition = site.test, site.partition
    check_fit(start, site.data)
    _same_samples(out / PARTITION, partition)
    server = Server(
        config, start, out / "rounds", test=test, told=told, keep=running.keep or bool(running.look), look=running.look,
        key=running.key,
    )  # fmt: skip
    config.write(out / CONFIG)  # now that nothing is wrong with it
    partition.write(out / PARTITION)
    if server.rounds.round < config.rounds:
        client = client_app(
            config, root=running.root, kept=out / "clients", threads=running.threads, code=running.code, key=running.key
        )
        simulate(running.engine, client, config.clients, server.run, workers=running.workers)
    model = server.network()
    save(model, out, {"recipe": "federated", "federation": config.sha256, "data": site.data.sha256}, running.key)
    record: dict[str, Any] = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "model": model_record(model, model.spec, model_hash(model)),
        "data": data_record(site.data),
        "test": data_record(test),
        "partition": {"settings": dict(partition.settings), "sha256": partition.sha256, "counts": partition.counts(site.data).tolist()},
        "rounds": [_untimed(row) for row in server.rounds.rows],
        "devices": None if server.fleet is None else [asdict(each) for each in server.fleet.devices],
        "assumptions": [f"Energy: {what}." for what in config.costs.assumptions().values()],
        "gate": _gate(server.rounds, least),
        "environment": environment(),
    }  # fmt: skip
    write_text(out / "rounds.csv", _rounds_csv(server.rounds.rows))
    write_text(out / "clients.csv", _clients_csv(server.rounds.rows))
    write_text(out / "federated.html", page(record))
    write_text(out / "federated.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return Judged(record, out / "federated.html", 0 if record["gate"] is None else record["gate"]["exit_code"])


def _same(path: Path, config: FederatedConfig) -> None:
    """RunError where the folder was begun with other settings: it says which."""
    if path.exists():
        ours, theirs = config.model_dump(mode="json"), FederatedConfig.read(path).model_dump(mode="json")
        if differing := sorted(key for key in ours if ours[key] != theirs[key]):
            raise RunError(
                f"{path.parent} holds a federation of other settings ({', '.join(differing)} differ). Choose another --out, or delete that "
                "folder."
            )


def _same_samples(path: Path, partition: Partition) -> None:
    """RunError where the folder was begun with other samples of the same name, or with another division of them."""
    if path.exists() and Partition.read(path).sha256 != partition.sha256:
        raise RunError(
            f"{path.parent} holds a federation on other samples: those of its data set have changed. Choose another --out, or bring the "
            "samples back."
        )


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    """Without the seconds, which are in the tables alone: equal runs give equal records."""
    clients = {client: {k: v for k, v in told.items() if k != "seconds"} for client, told in row["clients"].items()}
    return {**{key: value for key, value in row.items() if key != "seconds"}, "clients": clients}


def _gate(rounds: Rounds, least: float | None) -> dict[str, Any] | None:
    if least is None:
        return None
    figure = rounds.rows[-1].get("test")
    code = 3 if figure is None else 0 if figure["value"] >= least else 1
    return {"bound": least, "value": None if figure is None else figure["value"], "exit_code": code}


def _rounds_csv(rows: list[dict[str, Any]]) -> str:
    return _table(
        ["round", "test_accuracy", "asked", "combined", "failed", "refused", "capped", "seconds"],
        (
            [row["round"], row.get("test", {}).get("value"), len(row["asked"]), row["combined"]]
            + [len(row[name]) for name in ("failed", "refused", "capped")]
            + [round(row["seconds"], 3)]
            for row in rows
        ),
    )


def _clients_csv(rows: list[dict[str, Any]]) -> str:
    names = sorted({name for row in rows for told in row["clients"].values() for name in told})
    return _table(
        ["round", "client", *names, "own_right", "own_count", "failed", "refused", "capped"],
        (
            [row["round"], client, *(row["clients"].get(client, {}).get(name) for name in names), *row["own"].get(client, [None, None])]
            + [row[name].get(client) for name in ("failed", "refused", "capped")]
            for row in rows
            for client in sorted({*row["clients"], *row["failed"], *row["own"]}, key=int)
        ),
    )  # fmt: skip


def _table(header: list[str], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
