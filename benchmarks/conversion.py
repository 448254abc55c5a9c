"""What a conversion loses: a QCFS network of each number of levels against its bit-serial and its rate-coded spiking network.

    python benchmarks/conversion.py
    python benchmarks/conversion.py --train 10000 --levels 7 --bit-l1 0,1e-8,1e-7,1e-6 --steps 4

Every activation of every test image is compared. In float64 no sum of the bit-serial network is rounded. In float32 the order of
additions decides what becomes of a current that lies between two levels, in the ANN itself as well; so the ANN in float32 is
held against itself in float64, too. Trained networks are kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

import copy
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from harness import begin, options
from report import Report, share

import trustsnn
from trustsnn.checkpoint import load_network
from trustsnn.conversion import Comparison, compare, convert, table
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork, build
from trustsnn.training import TrainConfig, train


def main() -> None:
    """One table of whole networks; for each bit-serial one, a table of its layers in float32 and in float64."""
    parser = options(__doc__.splitlines()[0])
    arguments(parser)
    given = begin(parser)
    data, test = sets_of(given)
    penalised = ", with a penalty on bits" if any(given.bit_l1) else ""
    title = f"Conversion{penalised}: {given.network} on {given.data}, {len(data)} training and {len(test)} test images"
    report = Report(title, given)
    networks = []
    raw = []
    for levels in given.levels:
        for weight in given.bit_l1:
            ann = trained(given, data, levels, weight)
            name = f"L = {levels}{f', bit L1 {weight:g}' if weight else ''}"
            exact = copy.deepcopy(ann).double()
            for method, steps in [("bit-serial", None), *(("rate", steps) for steps in given.steps)]:
                begun = time.perf_counter()
                spiking = convert(ann, method, steps=steps)
                found = compare(ann, spiking, test)
                networks.append([name, f"{method}, T = {spiking.spec.steps}", *_network(found)])
                raw.append({"ann": name, "method": method, "steps": spiking.spec.steps, **asdict(found)})
                print(f"{name}, {method}, T = {spiking.spec.steps}: {time.perf_counter() - begun:.0f} s", flush=True)
                if method == "bit-serial":
                    _layers(report, f"{name}: bit-serial against the ANN, both in float32", found)
                    _layers(
                        report,
                        f"{name}: the ANN in float32 against itself in float64",
                        compare(exact, convert(ann, "folded"), test),
                    )
                    _layers(report, f"{name}: bit-serial against the ANN, both in float64", compare(exact, convert(exact), test))
    columns = ["ANN", "converted", "ANN correct", "converted correct", "same class", "spikes a sample"]
    report.table("Networks, float32", columns, networks, "95 % intervals: Wilson.", raw)


def sets_of(given: Namespace) -> tuple[Dataset, Dataset]:
    """The training and the test images."""
    sets = {split: load(given.data, split) for split in ("train", "test")}
    data, test = (sets[split].take(getattr(given, split) or len(sets[split])) for split in ("train", "test"))
    return data, test


def trained(given: Namespace, data: Dataset, levels: int, weight: float) -> SpikingNetwork:
    """The QCFS network of these settings, from --keep if it is there."""
    folder = given.keep / f"{given.network}-{given.data}-{len(data)}-{given.epochs}-L{levels}-V{given.threshold:g}-{weight:g}"
    if not (folder / "manifest.json").is_file():
        network = build(
            given.network, input_shape=data.sample_shape, classes=len(data.classes), neuron="qcfs", levels=levels,
            threshold=given.threshold, sparsity=weight,
        )  # fmt: skip
        train(network, data, TrainConfig(epochs=given.epochs), folder=folder / "training")
        trustsnn.save(network, folder)
    return load_network(folder)


def _layers(report: Report, title: str, found: Comparison) -> None:
    report.table(title, table.COLUMNS, table.rows(found), " ".join(table.sentences(found)), asdict(found))


def _network(found: Comparison) -> list[str]:
    figures = [share(each, 2, counted=True) for each in (found.ann_accuracy, found.accuracy, found.agreement)]
    return [*figures, f"{found.spikes:,.0f}"]


def arguments(parser: ArgumentParser) -> None:
    """Those of a network and its data."""

    def whole(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--train", type=int, default=0, help="training images; 0 for all (default %(default)s)")
    parser.add_argument("--test", type=int, default=0, help="test images; 0 for all (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--threshold", type=float, default=2.0, help="of every layer at the start (default %(default)s)")
    parser.add_argument("--levels", type=whole, default=[3, 7, 15], help="2^T - 1, with commas (default 3,7,15)")
    parser.add_argument("--steps", type=whole, default=[2, 4, 8, 16, 32], help="of the rate code (default 2,4,8,16,32)")
    parser.add_argument(
        "--bit-l1", type=lambda text: [float(each) for each in text.split(",")], default=[0.0],
        help="weights of the bit-level penalty, with commas (default 0)",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, default=Path("models/conversion"), help="(default %(default)s)")


if __name__ == "__main__":
    main()
