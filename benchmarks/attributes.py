"""What models of a table give away of records and of the table as a whole: attribute and property inference on SNNs of several codes and an ANN.

    python benchmarks/attributes.py

A row of the table is a sample [1, 1, features] in [0, 1], which an encoder turns into spikes. Models and finished runs are kept under
--keep: a killed run goes on.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from harness import begin, options
from outcomes import Outcomes, kept
from report import Report

from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, load
from trustsnn.models import build
from trustsnn.reports.inference import leaking
from trustsnn.reports.wording import interval, percent
from trustsnn.runners.attributes import PropertyPlan, attributes, properties
from trustsnn.runners.membership import noisy_labels
from trustsnn.runners.shadows import Recipe
from trustsnn.training import TrainConfig, accuracy

MODELS: dict[str, dict[str, Any]] = {
    "ANN": {"neuron": "relu", "steps": 1},
    "SNN, direct": {"steps": 4},
    "SNN, Poisson": {"steps": 8, "encoder": "poisson"},
    "SNN, latency": {"steps": 8, "encoder": "latency"},
}
ATTACKS = ("prior", "imputation", "both", "confidence")


def main() -> None:
    """A table of attributes for each share of wrong labels, and one of a property."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="cancer", help="a table (default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="width of the mlp (default %(default)s)")
    parser.add_argument("--label-noise", default="0,0.2", help="shares of labels drawn anew, with commas (default %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=60, help="of the models that are asked for attributes (default %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="such models of each kind (default %(default)s)")
    parser.add_argument("--label", type=int, default=0, help="the class whose share is the property (default %(default)s)")
    parser.add_argument("--shares", default="0.4:0.5,0.3:0.5", help="pairs to tell apart, with commas (default %(default)s)")
    parser.add_argument("--shadows", type=int, default=40, help="models of the property's attacker (default %(default)s)")
    parser.add_argument("--targets", type=int, default=40, help="models that the attacker is measured on (default %(default)s)")
    parser.add_argument("--property-epochs", type=int, default=20, help="of their training (default %(default)s)")
    parser.add_argument("--models", help="some of them, with semicolons (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes that train (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/leakage/attributes"), help="(default %(default)s)")
    given = begin(parser)
    names = given.models.split(";") if given.models else list(MODELS)
    report = Report(f"Attributes and properties: mlp on {given.data}", given)
    for share in map(float, given.label_noise.split(",")):
        attribute_table(report, names, share, given)
    property_table(report, names, given)


def attribute_table(report: Report, names: list[str], share: float, given: Namespace) -> None:
    """A row for each kind of model, of members and of others."""
    train, test = load(given.data, "train"), load(given.data, "test")
    members = noisy_labels(train, share, 0)
    others = test.take(len(test) // 2, 0)
    population = test.select(np.flatnonzero(~np.isin(test.ids, others.ids)))
    rows, raw = [], {}
    for name in names:
        found = [guessed(name, seed, members, others, population, given) for seed in range(given.seeds)]
        raw[name] = found
        for side in ("members", "others"):
            shares = [_ends([each[side][attack] for each in found]) for attack in ATTACKS]
            away = ", ".join(str(len(each["leaking"])) for each in found) if side == "members" else ""
            gained = _ends([each[side]["gain"] for each in found], "{:+.0f}")
            rows.append([name, side, _ends([each["right"][side] for each in found]), *shares, gained, away])
    columns = ["model", "whose", "right", *ATTACKS, "guesses gained", "features given away"]
    note = (
        f"Secrets guessed right, each of {len(raw[names[0]][0]['features'])} features cut at its median in turn: medians over {given.seeds} "
        "models (lowest to highest). Prior: the commoner value; imputation: the rest of the record, without the model; both: the rest and "
        "the model; confidence: the model alone. Gained: guesses that are right with the model and wrong without it, less the reverse, of "
        "all features. Given away: features for which the model adds more than chance can (exact McNemar test, Bonferroni's correction "
        f"over the features), by model. {len(members)} members, {len(others)} others, {len(population)} records of the attacker."
    )
    noise = f", {share:.0%} of the members' labels drawn anew" if share else ""
    report.table(f"Attributes{noise}", columns, rows, note, raw)


def guessed(name: str, seed: int, members: Dataset, others: Dataset, population: Dataset, given: Namespace) -> dict[str, Any]:
    """The figures of one model: what it has right, what share of the secrets each attack has, and the features that it gives away."""
    fresh = build(
        "mlp", input_shape=members.sample_shape, classes=len(members.classes), channels=given.channels, seed=seed, **MODELS[name]
    )
    config = TrainConfig(epochs=given.epochs, batch_size=16, seed=seed)
    model, _ = Outcomes(given.keep).trained(fresh, members, config)
    decides = {
        "model": model_hash(model), "seed": seed, **{f"{number}": each.samples_sha256 for number, each in enumerate((members, others, population))},
    }  # fmt: skip

    def run(out: Path) -> None:
        attributes(model, members, others, population, out, seed=seed)

    record = kept(given.keep, "attributes.json", decides, run)
    found: dict[str, Any] = {
        "right": {side: accuracy(model, data)["value"] for side, data in (("members", members), ("others", others))},
        "leaking": leaking(record),
        "features": [row["feature"] for row in record["features"]],
    }
    for side in ("members", "others"):
        found[side] = {attack: float(np.mean([row[side][attack]["value"] for row in record["features"]])) for attack in ATTACKS}
        gains = [row[side]["gain"] for row in record["features"]]
        found[side]["gain"] = sum(gain["gained"] - gain["lost"] for gain in gains)
    print(f"  {name}, seed {seed}: {len(found['leaking'])} features given away", flush=True)
    return found


def property_table(report: Report, names: list[str], given: Namespace) -> None:
    """A row for each kind of model and pair of shares."""
    train, test = load(given.data, "train"), load(given.data, "test")
    rows, raw = [], {}
    for name in names:
        model = build(
            "mlp", input_shape=train.sample_shape, classes=len(train.classes), channels=given.channels / 2, **MODELS[name]
        )
        recipe = Recipe(model.architecture, TrainConfig(epochs=given.property_epochs, batch_size=16))
        for pair in given.shares.split(","):
            low, high = map(float, pair.split(":"))
            plan = PropertyPlan(
                recipe=recipe, label=given.label, shares=(low, high), samples=100, known=given.shadows, asked=given.targets,
                workers=given.workers,
            )  # fmt: skip
            record = told(name, pair, train, test, plan, given)
            right, auc = record["right"], record["auc"]
            rows.append([
                name, f"{percent(low)} or {percent(high)}",
                f"{right['successes']} of {right['count']} ({interval(right)})", f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})",
            ])  # fmt: skip
            raw[f"{name}, {pair}"] = {key: record[key] for key in ("right", "auc", "property", "scores")}
    note = (
        f"Share of the class {train.classes[given.label]} in 100 training samples. {given.shadows} shadow models of the attacker, which share "
        "no sample with the models that it is measured on; guessing gets half. 95 % intervals: Wilson and DeLong, over those models."
    )
    report.table("A property of the training data", ["model", "shares", "told right", "AUC"], rows, note, raw)


def told(name: str, pair: str, train: Dataset, test: Dataset, plan: PropertyPlan, given: Namespace) -> dict[str, Any]:
    """The record of one property run."""
    decides = {
        "architecture": plan.recipe.architecture, "epochs": plan.recipe.config.epochs, "data": [train.samples_sha256, test.samples_sha256],
        "label": plan.label, "shares": plan.shares, "known": plan.known, "asked": plan.asked,
    }  # fmt: skip

    def run(out: Path) -> None:
        properties(train, test, out, plan)

    record = kept(given.keep, "properties.json", decides, run)
    print(f"  {name}, {pair}: {record['right']['successes']} of {record['right']['count']}", flush=True)
    return record


def _ends(values: list[float], form: str = "{:.1%}") -> str:
    return f"{form.format(median(values))} ({form.format(min(values))} to {form.format(max(values))})"


if __name__ == "__main__":
    main()
