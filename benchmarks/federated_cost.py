"""What federating costs as clients grow: processor time beside the same training without Flower, and memory.

    python benchmarks/federated_cost.py

Every cell is a process of its own, with all that it starts. Plain: each client's network is trained on its samples and measured on those that
it holds out, one after the other, and once on the test split, in every round; nothing is sent, combined or kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from harness import begin, options
from report import Report

from trustsnn.checkpoint import model_hash
from trustsnn.data import splits
from trustsnn.federated.client import Site, network
from trustsnn.federated.config import FederatedConfig, parsed
from trustsnn.models import build
from trustsnn.models.network import SpikingNetwork
from trustsnn.runners.federated import Running, federate
from trustsnn.training import accuracy, train

ENGINES = ("plain", "inline", "ray")


def main() -> None:
    """One table; a row for each number of clients."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.25, help="(default %(default)s)")
    parser.add_argument("--clients", default="5,20,50,100,200", help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--cell", help="for this program itself: run one, such as 20:ray")
    given = begin(parser)
    if given.cell:
        clients, _, engine = given.cell.partition(":")
        run(engine, int(clients), given)
        return
    report = Report(f"Cost of federating: {given.network} ({given.channels:g} of its channels) on {given.data}", given)
    rows, raw = [], {}
    for clients in map(int, given.clients.split(",")):
        found = {engine: measured([*sys.argv, "--cell", f"{clients}:{engine}"]) for engine in ENGINES}
        raw[str(clients)] = found
        plain, turns = found["plain"][0], clients * given.rounds
        rows.append([
            str(clients), *(f"{found[engine][0]:.0f} s" for engine in ENGINES),
            *(f"{(found[engine][0] - plain) / turns:.2f} s" for engine in ENGINES[1:]), *(f"{found[engine][1] / 1e9:.2f} GB" for engine in ENGINES),
        ])  # fmt: skip
        print(f"  {clients} clients: {found}", flush=True)
    columns = ["clients", *(f"processor, {e}" for e in ENGINES), *(f"more a client and round, {e}" for e in ENGINES[1:])]
    samples = len(splits(given.data)["train"])
    report.table(
        f"{given.rounds} rounds, {samples:,} samples among the clients", [*columns, *(f"memory, {e}" for e in ENGINES)], rows,
        "Processor seconds of the whole command, start and loading included, with all processes of Ray (two of them train); memory is the peak of "
        "the sum of their proportional set sizes, looked at twice a second. iid partition, one local epoch a round.", raw,
    )  # fmt: skip


def run(engine: str, clients: int, given: Namespace) -> None:
    """What a cell measures."""
    data = splits(given.data)["train"]
    start = build(given.network, input_shape=data.sample_shape, classes=len(data.classes), channels=given.channels)
    base = {"architecture": start.architecture, "start": model_hash(start), "data": given.data}
    config = parsed({**base, "clients": clients, "rounds": given.rounds, "partition": "iid"}, "benchmarks/federated_cost.py")
    if engine == "plain":
        plain(config, start)
        return
    with tempfile.TemporaryDirectory() as folder:
        federate(config, start, Path(folder) / "run", Running(engine, 2, given.threads))


def plain(config: FederatedConfig, start: SpikingNetwork) -> None:
    """The work of the clients and the measurement of the server, without a federation."""
    site = Site(config)
    for round_ in range(1, config.rounds + 1):
        for client in range(config.clients):
            model = network(config)
            model.load_state_dict(start.state_dict())
            mine, held = site.samples(client)
            train(model, mine, config.training(client, round_))
            if held is not None:
                accuracy(model, held, seed=config.seed)
        accuracy(start, site.test, seed=config.seed)


def measured(words: list[str]) -> tuple[float, int]:
    """Processor seconds and the largest proportional set size in bytes of a program with everything that it starts."""
    processor: dict[int, float] = {}
    most = 0
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            sizes = 0
            for pid in family(process.pid):
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    processor[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                except OSError:  # it has just ended
                    continue
                sizes += next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
            most = max(most, sizes)
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"A cell failed: {' '.join(words)}")
    return sum(processor.values()), most


def family(root: int) -> Iterator[int]:
    """The process and all that came of it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    waiting = [root]
    while waiting:
        yield (pid := waiting.pop())
        waiting += children.get(pid, [])


if __name__ == "__main__":
    main()
