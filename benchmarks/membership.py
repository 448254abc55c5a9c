"""Who was in the training data: SNNs of several T, codings and surrogates and an ANN, ended at the same training accuracy, under every attack.

    python benchmarks/membership.py
    python benchmarks/membership.py --data cifar10 --label-noise 0 --stop-at 0.98
    python benchmarks/membership.py --private --epochs 20

Each target is trained on the half of one pool that fair coins pick, as many shadow models on other halves. Targets, shadow models and
finished runs are kept under --keep: a killed run goes on. A model that does not come out within a point of the first one's training
accuracy is matched: the first one is trained again and ended at the epoch that brings it nearest.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import begin, options
from outcomes import kept
from report import Report, share

from trustsnn.data import Dataset, load
from trustsnn.defenses.dp import PrivacyConfig
from trustsnn.models import build
from trustsnn.reports.membership import ranked, rate, title
from trustsnn.runners.membership import Plan, game, noisy_labels, part, target
from trustsnn.runners.shadows import Recipe, coins
from trustsnn.training import TrainConfig
from trustsnn.training.evaluate import accuracy

MODELS: dict[str, dict[str, Any]] = {
    "ANN": {"neuron": "relu", "steps": 1},
    "SNN, T 1": {"steps": 1},
    "SNN, T 4": {"steps": 4},
    "SNN, T 8": {"steps": 8},
    "SNN, T 4, atan": {"steps": 4, "surrogate": "atan"},
    "SNN, T 1, Poisson": {"steps": 1, "encoder": "poisson"},
    "SNN, T 4, Poisson": {"steps": 4, "encoder": "poisson"},
    "SNN, T 8, Poisson": {"steps": 8, "encoder": "poisson"},
}
PRIVATE: dict[str, dict[str, Any]] = {
    "group norm": {"norm": "group"},
    "the same, eps 8": {"norm": "group", "eps": 8.0},
    "the same, eps 1": {"norm": "group", "eps": 1.0},
}  # these are not ended at a training accuracy
MATCHED = 0.01


def main() -> None:
    """One table of all models, and one of all attacks on each."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="(default %(default)s)")
    parser.add_argument("--pool", type=int, default=4000, help="samples, members and others (default %(default)s)")
    parser.add_argument("--population", type=int, default=1000, help="further samples of the attacker (default %(default)s)")
    parser.add_argument("--label-noise", type=float, default=0.1, help="share of labels drawn anew (default %(default)s)")
    parser.add_argument("--shadows", type=int, default=16, help="(default %(default)s)")
    parser.add_argument("--epochs", type=int, default=40, help="at most (default %(default)s)")
    parser.add_argument(
        "--stop-at", type=float, default=0.97, help="training accuracy that ends a training (default %(default)s)"
    )
    parser.add_argument("--private", action="store_true", help="private training and the same without, instead")
    parser.add_argument("--models", help="some of them, with semicolons (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes that train (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/leakage/membership"), help="(default %(default)s)")
    given = begin(parser)
    train, test = (noisy_labels(load(given.data, split), given.label_noise, given.seed) for split in ("train", "test"))
    pool = part(train, given.pool, given.seed, "pool")
    population = part(test, given.population, given.seed, "population")
    if given.private:
        given.stop_at = None
    models = PRIVATE if given.private else MODELS
    names = given.models.split(";") if given.models else list(models)
    records = {name: attacked(recipe(models[name], pool, given), pool, population, given) for name in names}
    alike = matched(records, recipe(models[names[0]], pool, given), pool, population, given) if given.stop_at else {}
    records = {names[0]: records[names[0]], **alike, **records}
    noise = f", {given.label_noise:.0%} of the labels drawn anew" if given.label_noise else ""
    report = Report(f"Membership, {given.network} on {given.data}{noise}", given)
    rows = []
    for name, record in records.items():
        found = {row["name"]: row for row in record["attacks"]}
        best = ranked(record)[0]
        rows.append([
            name, share(record["gap"]["train"]), share(record["gap"]["test"]),
            *(f"{_area(found[each])}; {rate(found[each]['tpr'][-1])}" for each in ("loss", "lira", "rmia")),
            rate(found["lira"]["tpr"][0]), f"{title(best['name'])}: {rate(best['tpr'][-1])}", f"{record['eps']['lower']:.2f}",
        ])  # fmt: skip
    pair = "AUC; found at 1 %"
    note = f"{given.pool} samples, a member by a fair coin; 95 % intervals. The bound on eps is LiRA's."
    if given.stop_at:
        apart = [
            name for name in names[1:] if not any(near(each, records[name]) for each in (records[names[0]], *alike.values()))
        ]
        note += f" Not within a point of the training accuracy of any {names[0]}: {'; '.join(apart) or 'none'}."
    report.table(
        f"{given.data}, {given.shadows} shadow models" + (f", ended at a training accuracy of {given.stop_at:.0%}" if given.stop_at else ""),
        ["", "right, members", "right, others", f"loss: {pair}", f"LiRA: {pair}", f"RMIA: {pair}", "LiRA, found at 0.1 %",
         "strongest at 1 %", "eps at least"],
        rows, note, {name: _raw(record) for name, record in records.items()},
    )  # fmt: skip
    for name, record in records.items():
        report.table(
            f"{given.data}: {name}", ["attack", "AUC", "found at 0.1 %", "found at 1 %"],
            [[title(row["name"]), _area(row), *(rate(each) for each in row["tpr"])] for row in ranked(record)],
        )  # fmt: skip


def recipe(arguments: dict[str, Any], pool: Dataset, given: Namespace) -> Recipe:
    """How a model of these arguments is trained."""
    eps = arguments.get("eps")
    rest = {key: value for key, value in arguments.items() if key != "eps"}
    model = build(given.network, input_shape=pool.sample_shape, classes=len(pool.classes), channels=given.channels, **rest)
    config = TrainConfig(epochs=given.epochs, batch_size=64)
    return Recipe(model.architecture, config, given.stop_at, PrivacyConfig(eps=eps, seeded=True) if eps else None)


def matched(
    records: dict[str, dict[str, Any]], first: Recipe, pool: Dataset, population: Dataset, given: Namespace
) -> dict[str, dict[str, Any]]:
    """For each record that is not near the first one's training accuracy: the record of the first one's model, ended as near to it as an
    epoch brings it."""
    members = pool.select(np.flatnonzero(coins(pool.ids, given.seed)))
    name, *others = records
    earlier: dict[int, tuple[float, Recipe]] = {}
    for epoch in target(first, pool, given.keep / "models", given.seed).epochs[:-1]:
        ended = replace(first, stop_at=epoch["train_accuracy"])
        found = target(ended, pool, given.keep / "models", given.seed)
        earlier[len(found.epochs)] = accuracy(found.load(), members)["value"], ended
    alike: dict[str, dict[str, Any]] = {}
    for other in others:
        wanted = records[other]["gap"]["train"]["value"]
        if earlier and not any(near(each, records[other]) for each in (records[name], *alike.values())):
            epochs = min(earlier, key=lambda each: abs(earlier[each][0] - wanted))
            alike[f"{name}, ended after epoch {epochs}"] = attacked(earlier[epochs][1], pool, population, given)
    return alike


def near(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Within a point of the same training accuracy."""
    return bool(abs(one["gap"]["train"]["value"] - other["gap"]["train"]["value"]) <= MATCHED)


def attacked(recipe: Recipe, pool: Dataset, population: Dataset, given: Namespace) -> dict[str, Any]:
    """The record of a game with a model of this recipe."""
    plan = Plan(recipe=recipe, shadows=given.shadows, workers=given.workers, models=given.keep / "models")
    decides = {
        "recipe": asdict(recipe), "pool": pool.samples_sha256, "population": population.samples_sha256, "shadows": given.shadows,
        "seed": given.seed,
    }  # fmt: skip

    def run(out: Path) -> None:
        game(pool, population, out, plan, seed=given.seed, told=lambda line: print(f"  {line}", flush=True))

    return kept(given.keep, "membership.json", decides, run)


def _area(row: dict[str, Any]) -> str:
    return f"{row['auc']['value']:.3f} ({row['auc']['low']:.3f} to {row['auc']['high']:.3f})"


def _raw(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("gap", "eps", "shadows")} | {
        "attacks": [{key: row[key] for key in ("name", "auc", "tpr")} for row in record["attacks"]]
    }


if __name__ == "__main__":
    main()
