"""What weights show of the classes: images by every class attack on SNNs of several codes and an ANN, judged by a classifier of other layers.

    python benchmarks/reconstruction.py

Gradient ascent through the network itself and through a ReLU copy of its weights, and BrainLeaks 1 and 2 on spike trains. Models, the
judge and finished runs are kept under --keep, with the pictures: a killed run goes on.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

from harness import begin, options
from outcomes import Outcomes, kept
from report import Report

from trustsnn.attacks.leakage import BrainLeaksV1, BrainLeaksV2, ClassAttack, ClassRepresentation
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork, build
from trustsnn.reports.leakage import ROUTES
from trustsnn.reports.wording import interval, percent
from trustsnn.runners.leakage import class_leakage
from trustsnn.statistics import proportion
from trustsnn.training import TrainConfig, accuracy

MODELS: dict[str, dict[str, Any]] = {
    "ANN": {"neuron": "relu", "steps": 1},
    "SNN, T 4": {"steps": 4},
    "SNN, T 8": {"steps": 8},
    "SNN, T 8, Poisson": {"steps": 8, "encoder": "poisson"},
}
JUDGE = 1000  # its seed: no model has it


def main() -> None:
    """One table: a row for each kind of model and attack."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="factor on its channels (default %(default)s)")
    parser.add_argument("--judge", default="vgg9", help="architecture of the judge, an ANN (default %(default)s)")
    parser.add_argument("--judge-channels", type=float, default=0.25, help="factor on its channels (default %(default)s)")
    parser.add_argument("--train", type=int, default=10_000, help="training samples (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--test", type=int, default=2000, help="real samples of the judge (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="models of each kind (default %(default)s)")
    parser.add_argument("--images", type=int, default=10, help="a class, model and attack (default %(default)s)")
    parser.add_argument("--iterations", type=int, default=100, help="of gradient ascent (default %(default)s)")
    parser.add_argument("--models", help="some of them, with semicolons (default: all)")
    parser.add_argument("--keep", type=Path, default=Path("runs/leakage/reconstruction"), help="(default %(default)s)")
    given = begin(parser)
    known, test = load(given.data, "train").take(given.train, 0), load(given.data, "test").take(given.test, 0)
    report = Report(f"Class reconstruction: {given.network} on {given.data}", given)
    judge = trained(given.judge, given.judge_channels, JUDGE, MODELS["ANN"], known, given)
    rows, raw, chance, told = [], {}, 0.0, {}
    for name in given.models.split(";") if given.models else list(MODELS):
        models = [trained(given.network, given.channels, seed, MODELS[name], known, given) for seed in range(given.seeds)]
        records = [attacked(each, seed, judge, test, given) for seed, each in enumerate(models)]
        right = [accuracy(each, test)["value"] for each in models]
        chance, told = records[0]["chance"][0], records[0]["judge"]["accuracy"]
        runs = [record["models"][0]["attacks"] for record in records]
        raw[name] = {"right": right, "attacks": [[_figures(attack) for attack in attacks] for attacks in runs]}
        for attacks in zip(*runs, strict=True):
            rows.append([name, _ends(right, "{:.1%}"), *_row(attacks, name == "ANN")])
    count = given.images * len(test.classes)
    note = (
        f"{given.seeds} models of each kind, {count} images of each. Top 1: images that the judge takes for their class, of all models, with "
        f"Wilson's 95 % interval over images, and its range over models; by chance {percent(chance)}. Distance in the judge's features: 0 is "
        "as near to the class as other real images of it, 1 as far as real images of other classes; median over models (range). p: of so "
        "many hits by chance, the classes being reassigned; the largest of the models. No gradient: images that began without one. The judge "
        f"({given.judge}, ANN) has {percent(told['value'], told['count'])} of {told['count']} real samples right."
    )
    columns = ["model", "right", "attack through", "top 1", "by model", "distance", "p", "no gradient"]
    report.table(f"Class images, {given.data}", columns, rows, note, raw)


def trained(
    network: str, channels: float, seed: int, arguments: dict[str, Any], known: Dataset, given: Namespace
) -> SpikingNetwork:
    """A network of that seed."""
    fresh = build(network, input_shape=known.sample_shape, classes=len(known.classes), channels=channels, seed=seed, **arguments)
    return Outcomes(given.keep).trained(fresh, known, TrainConfig(epochs=given.epochs, batch_size=64, seed=seed))[0]


def attacked(model: SpikingNetwork, seed: int, judge: SpikingNetwork, test: Dataset, given: Namespace) -> dict[str, Any]:
    """The record of every attack on one model."""
    attacks: tuple[ClassAttack, ...] = (
        *(ClassRepresentation(through=through, iterations=given.iterations, seed=seed) for through in ("ann", "snn")),
        BrainLeaksV1(seed=seed),
        BrainLeaksV2(seed=seed),
    )
    decides = {
        "model": model_hash(model), "judge": model_hash(judge), "data": test.samples_sha256, "images": given.images, "seed": seed,
        "attacks": [each.describe() for each in attacks],
    }  # fmt: skip

    def run(out: Path) -> None:
        models = {model.architecture["name"]: model}
        class_leakage(
            models, judge, test, out, attacks, images=given.images, seed=seed, told=lambda line: print(f"  {line}", flush=True)
        )

    return kept(given.keep, "leakage.json", decides, run)


def _row(attacks: tuple[dict[str, Any], ...], ann: bool) -> list[str]:
    """One attack on the models of one kind."""
    hits, silent = (
        proportion(*(sum(each[key][part] for each in attacks) for part in ("successes", "count")))
        for key in ("top1", "zero_gradient")
    )
    through = attacks[0]["settings"]["through"]
    return [
        "the network itself" if ann else ROUTES[through][0],
        f"{percent(hits['value'], hits['count'])} of {hits['count']} ({interval(hits)})",
        f"{min(each['top1']['value'] for each in attacks):.0%} to {max(each['top1']['value'] for each in attacks):.0%}",
        _ends([each["distance"]["value"] for each in attacks], "{:.2f}"),
        f"{max(each['above_chance'] for each in attacks):.2g}",
        str(silent["successes"]),
    ]  # fmt: skip


def _figures(attack: dict[str, Any]) -> dict[str, Any]:
    return {key: attack[key] for key in ("settings", "top1", "top3", "confidence", "distance", "above_chance", "zero_gradient")}


def _ends(values: list[float], form: str) -> str:
    return f"{form.format(median(values))} ({form.format(min(values))} to {form.format(max(values))})"


if __name__ == "__main__":
    main()
