"""Flips to chance of a spiking network and its ANN twin, by each gradient estimator and by both, and what faults leave.

python benchmarks/integrity.py
python benchmarks/integrity.py --data mnist --samples 1000 --limit 100
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import begin, options
from outcomes import Outcomes
from report import Report

from trustsnn.attacks.integrity import FAULTS, BitFlips, BitFlipSearch, fault_curve, random_flips
from trustsnn.attacks.integrity.bitflips import default_estimators
from trustsnn.attacks.twin import ann_twin
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork, build
from trustsnn.reports.integrity import band
from trustsnn.training import TrainConfig


def main() -> None:
    """One table of flips, one of faults."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="data set (default %(default)s)")
    parser.add_argument("--network", default="conv", help="architecture (default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="factor on its channels (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of training (default %(default)s)")
    parser.add_argument("--samples", type=int, default=300, help="held-out test samples (default %(default)s)")
    parser.add_argument("--known", type=int, default=128, help="training samples of the search (default %(default)s)")
    parser.add_argument("--limit", type=int, default=50, help="flips at most (default %(default)s)")
    parser.add_argument("--networks", type=int, default=3, help="networks of different seeds (default %(default)s)")
    parser.add_argument("--counts", default="1,4,16,64,256", help="numbers of faults (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="draws of faults and random flips (default %(default)s)")
    parser.add_argument(
        "--kept", type=Path, default=Path("runs/hardware/integrity"), help="trained networks (default %(default)s)"
    )
    given = begin(parser)
    train, test = load(given.data, "train"), load(given.data, "test").take(given.samples)
    report = Report(f"Integrity: {given.network} on {given.data}, {len(test)} test samples", given)
    networks = [_trained(given, train, test, seed) for seed in range(given.networks)]
    rows, raw = [], []
    for seed, network in enumerate(networks):
        for row in flips(network, train.take(given.known), test, given):
            rows.append([str(seed), *row[0]])
            raw.append({"network": seed, **row[1]})
    note = (
        f"8-bit weights. Down to chance: no better than always saying the most frequent class. The search reads {given.known} training samples, "
        f"with at most {given.limit} flips; right: of the held-out samples, with 95 % intervals."
    )
    columns = [
        "network",
        "of",
        "gradient",
        "right with 8 bits",
        "flips to chance",
        "right after them",
        "the same number at random",
    ]
    report.table("Bit flips", columns, rows, note, raw)
    faults(report, networks[0], test, given)


def _trained(given: Any, train: Dataset, test: Dataset, seed: int) -> SpikingNetwork:
    network = build(given.network, input_shape=test.sample_shape, classes=len(test.classes), channels=given.channels, seed=seed)
    config = TrainConfig(epochs=given.epochs, batch_size=64, learning_rate=4e-3, seed=seed)
    return Outcomes(given.kept).trained(network, train, config)[0]


def flips(network: SpikingNetwork, known: Dataset, test: Dataset, given: Any) -> list[tuple[list[str], dict[str, Any]]]:
    """A row for the network with each estimator and with both, and one for its twin."""
    own, wider = default_estimators(network)
    twin = ann_twin(network)
    subjects = [
        ("spiking", "own surrogate", network, (own,)),
        ("spiking", "wider surrogate", network, (wider,)),
        ("spiking", "both", network, (own, wider)),
        ("ANN twin", "ReLU", twin, (None,)),
    ]
    found = []
    for of, name, subject, estimators in subjects:
        result = BitFlipSearch(limit=given.limit, estimators=estimators).run(subject, known, test)
        (*_, drawn) = random_flips(subject, test, len(result.flips), seeds=given.seeds) if result.flips else (None,)
        at_random = band(drawn.to_dict()) if drawn is not None else ""
        found.append(([of, name, *_told(result), at_random], {"of": of, "gradient": name, **result.to_dict()}))
    return found


def _told(result: BitFlips) -> list[str]:
    first, last = result.accuracy[0], result.accuracy[-1]
    flips = str(result.to_chance) if result.to_chance is not None else f"more than {len(result.flips)} ({result.stopped})"
    return [_figure(first), flips, _figure(last)]


def _figure(figure: Any) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def faults(report: Report, network: SpikingNetwork, test: Dataset, given: Any) -> None:
    """The accuracy that each kind of fault leaves."""
    counts = tuple(int(each) for each in given.counts.split(","))
    rows, raw = [], {}
    for kind in FAULTS:
        bands = [each.to_dict() for each in fault_curve(network, test, kind, counts, seeds=given.seeds)]
        rows.append([kind, *(band(each) for each in bands)])
        raw[kind] = bands
    columns = ["fault", *(f"{count} faults" for count in counts)]
    report.table("Faults", columns, rows, f"Anywhere in the network of seed 0; {given.seeds} draws.", raw)


if __name__ == "__main__":
    main()
