"""Copies of an SNN and of the ANN of the same layers from their answers: how near they come for how many queries, and whether attacks transfer.

    python benchmarks/extraction.py

The attacker's queries are training samples that the target did not learn from, or noise; a copy is a network of the same layers with other
first weights. Targets and finished runs are kept under --keep: a killed run goes on.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from harness import begin, options
from outcomes import Outcomes, kept
from report import Report

from trustsnn.attacks.leakage.extraction import Extraction, noise_queries
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork, build
from trustsnn.reports.wording import interval, percent
from trustsnn.runners.extraction import Plan, extraction
from trustsnn.training import TrainConfig

MODELS: dict[str, dict[str, Any]] = {"SNN": {"steps": 4}, "ANN": {"steps": 1, "neuron": "relu"}}
WAYS = {
    "data, softmax, SNN": ("data", "soft", "SNN"),
    "data, class alone, SNN": ("data", "labels", "SNN"),
    "data, softmax, ANN": ("data", "soft", "ANN"),
    "noise, softmax, SNN": ("noise", "soft", "SNN"),
}
COLUMNS = ["queries, answers, copy", "number", "agreement", "accuracy of the copy", "misled by PGD on the copy"]


def main() -> None:
    """A table for each target."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="factor on its channels (default %(default)s)")
    parser.add_argument("--train", type=int, default=10_000, help="samples that the targets learn from (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of their training (default %(default)s)")
    parser.add_argument("--budgets", default="100,500,2500", help="numbers of queries (default %(default)s)")
    parser.add_argument("--train-steps", type=int, default=1000, help="of a copy's optimizer (default %(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="test samples of every figure (default %(default)s)")
    parser.add_argument("--eps", type=float, default=0.1, help="L-inf, of PGD (default %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of PGD (default %(default)s)")
    parser.add_argument("--models", default="SNN,ANN", help="targets (default %(default)s)")
    parser.add_argument("--ways", help="some of them, with semicolons (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/leakage/extraction"), help="(default %(default)s)")
    given = begin(parser)
    train, test = load(given.data, "train"), load(given.data, "test").take(given.samples, given.seed)
    known = train.take(given.train, given.seed)
    learnt = set(known.ids)
    unseen = train.select([row for row, sample in enumerate(train.ids) if sample not in learnt])
    ways = given.ways.split(";") if given.ways else list(WAYS)
    report = Report(f"Extraction: {given.network} on {given.data}", given)
    for name in given.models.split(","):
        target = trained(name, known, given)
        records = {way: copied(target, WAYS[way], unseen, test, given) for way in ways}
        first = next(iter(records.values()))
        note = (
            f"{len(test)} test samples, 95 % intervals (Wilson), the copy being given. The target has {_told(first['accuracy'])} right; PGD on the "
            f"target itself misleads it on {_told(first['white_box'])} of those, random signs of that size on {_told(first['random_signs'])}. "
            f"L-inf {given.eps:g}, {given.steps} steps."
        )
        rows = [
            [way, f"{row['queries']:,}", *(_told(row[key]) for key in ("agreement", "accuracy", "transfer"))]
            for way, record in records.items()
            for row in record["copies"]
        ]
        raw = {
            way: {key: record[key] for key in ("accuracy", "white_box", "random_signs", "copies")}
            for way, record in records.items()
        }
        report.table(f"Copies of the {name}", COLUMNS, rows, note, raw)


def trained(name: str, known: Dataset, given: Namespace) -> SpikingNetwork:
    """The target of that name."""
    network = build(
        given.network, input_shape=known.sample_shape, classes=len(known.classes), channels=given.channels, seed=given.seed, **MODELS[name]
    )  # fmt: skip
    return Outcomes(given.keep).trained(network, known, TrainConfig(epochs=given.epochs, batch_size=64, seed=given.seed))[0]


def copied(target: SpikingNetwork, way: tuple[str, str, str], unseen: Dataset, test: Dataset, given: Namespace) -> dict[str, Any]:
    """The record of all budgets in one way."""
    kind, answers, copy = way
    plan = Plan(
        attack=Extraction(answers=answers, steps=given.train_steps, seed=given.seed),
        budgets=tuple(int(each) for each in given.budgets.split(",")),
        copy={"name": given.network, "channels": given.channels, **MODELS[copy]},
        eps=given.eps,
        steps=given.steps,
    )
    queries = unseen if kind == "data" else noise_queries(target.spec, max(plan.budgets), given.seed)
    decides = {
        "target": model_hash(target), "queries": queries.samples_sha256, "data": test.samples_sha256, "copy": plan.copy,
        "attack": plan.attack.describe(), "budgets": plan.budgets, "eps": plan.eps, "steps": plan.steps, "seed": given.seed,
    }  # fmt: skip

    def run(out: Path) -> None:
        extraction(target, queries, test, out, plan, told=lambda line: print(f"  {', '.join(way)}: {line}", flush=True))

    return kept(given.keep, "extraction.json", decides, run)


def _told(figure: dict[str, Any]) -> str:
    return f"{percent(figure['value'], figure['count'])} ({interval(figure)})"


if __name__ == "__main__":
    main()
