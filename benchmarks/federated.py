"""Federated training: accuracy as clients grow and their data differ more, of an SNN and of the ANN of the same layers, beside one client.

    python benchmarks/federated.py
    python benchmarks/federated.py --cells 5:0.5,20:0.5,50:0.5,20:10,20:0.1 --models SNN,ANN --channels 0.25 --rounds 10

A cell is CLIENTS:ALPHA. "One client" is the same training with all samples in one place, as many epochs of them. Every federation is kept
under --keep, so that a killed run goes on.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from harness import begin, options
from report import Report

from trustsnn.canonical import sha256_of
from trustsnn.checkpoint import model_hash
from trustsnn.data import splits
from trustsnn.federated.config import parsed
from trustsnn.models import build
from trustsnn.runners.federated import Running, federate

MODELS: dict[str, dict[str, Any]] = {
    "SNN": {"steps": 4},
    "ANN": {"steps": 1, "neuron": "relu"},
    "SNN, BNTT": {"steps": 4, "norm": "bntt"},
}


def main() -> None:
    """One table: a row for each model and cell."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=1.0, help="(default %(default)s)")
    parser.add_argument("--cells", default="20:0.5,1:iid", help="clients and alpha (default %(default)s)")
    parser.add_argument("--models", default="SNN", help=f"of {', '.join(MODELS)}, with semicolons (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="(default %(default)s)")
    parser.add_argument("--strategy", default="fedavg", help="(default %(default)s)")
    parser.add_argument("--loss", default="cross-entropy", help="(default %(default)s)")
    parser.add_argument("--engine", default="inline", help="ray or inline (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/federated"), help="(default %(default)s)")
    given = begin(parser)
    report = Report(
        f"Federated training: {given.network} ({given.channels:g} of its channels) on {given.data}, {given.rounds} rounds", given
    )
    rows, raw = [], {}
    for name in given.models.split(";"):
        for cell in given.cells.split(","):
            clients, _, alpha = cell.partition(":")
            record = trained(MODELS[name], int(clients), alpha, given)
            last = record["rounds"][-1]
            own = [right / count for right, count in last["own"].values() if count]
            up, joules = (
                sum(told[name] for row in record["rounds"] for told in row["clients"].values()) for name in ("bytes_up", "joules")
            )
            told = last["test"]
            rows.append([
                name, "one client" if clients == "1" else clients, alpha, f"{told['value']:.2%} ({told['low']:.2%} to {told['high']:.2%})",
                f"{min(own):.1%} to {max(own):.1%}", f"{up / 1e6:,.0f} MB", f"{joules:,.3g} J",
            ])  # fmt: skip
            raw[f"{name}, {cell}"] = {
                "test": [row["test"]["value"] for row in record["rounds"]],
                "own": own,
                "bytes_up": up,
                "joules": joules,
            }
    columns = ["model", "clients", "alpha", "test split (95 % interval)", "clients on their own", "sent up", "training"]
    report.table(
        "Test accuracy after the last round", columns, rows,
        "Dirichlet partitions, one local epoch a round; a tenth of each client's samples is held out, on which it is measured on its own. "
        "The energy of all clients' training is the estimate of trustsnn.federated.costs.", raw,
    )  # fmt: skip


def trained(arguments: dict[str, Any], clients: int, alpha: str, given: Namespace) -> dict[str, Any]:
    """The record of one federation."""
    data = splits(given.data)["train"]
    start = build(
        given.network,
        input_shape=data.sample_shape,
        classes=len(data.classes),
        channels=given.channels,
        seed=given.seed,
        **arguments,
    )
    config = parsed(
        {
            "architecture": start.architecture, "start": model_hash(start), "data": given.data, "clients": clients, "rounds": given.rounds,
            "partition": alpha if alpha == "iid" else f"dirichlet:{alpha}", "strategy": given.strategy, "loss": given.loss, "seed": given.seed,
        },
        "benchmarks/federated.py",
    )  # fmt: skip

    def told(row: dict[str, Any]) -> None:
        print(
            f"  {clients} clients, alpha {alpha}, round {row['round']}: {row['test']['value']:.2%}, {row['seconds']:.0f} s",
            flush=True,
        )

    out = given.keep / sha256_of(config.model_dump(mode="json"))[:16]
    return federate(config, start, out, Running(given.engine, 2, given.threads), told=told).record


if __name__ == "__main__":
    main()
