"""How near images from updates come to the originals, for direct and Poisson coding and against each defence.

    python benchmarks/gradients.py

Networks and finished tables are kept under --keep: a killed run goes on.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import begin, options
from outcomes import Outcomes, kept
from report import Report

from trustsnn.attacks.leakage.gradient_inversion import METHODS, GradientInversion
from trustsnn.attacks.leakage.update_defences import Defence
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork, build
from trustsnn.runners.gradients import Plan, gradient_leakage
from trustsnn.training import TrainConfig, accuracy

CODINGS = ("none", "poisson=4", "poisson=25", "poisson=100")
DEFENCES = (
    "clip=1", "clip=0.1", "noise=0.001", "noise=0.01", "noise=0.1", "clip=1+noise=0.01", "topk=0.1", "topk=0.01", "bits=8", "bits=4",
)  # fmt: skip
SEARCHED = ("clip=1", "noise=0.01", "topk=0.1", "bits=8", "poisson")
COLUMNS = ["attack", "defence", "PSNR, dB", "SSIM", "labels, %", "outcome"]


def main() -> None:
    """A table of codings, one of defences, both of the analytic attack, and one of the searches."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument(
        "--samples", type=int, default=100, help="updates of one sample, for the analytic attack (default %(default)s)"
    )
    parser.add_argument("--searched", type=int, default=16, help="the same for the searches (default %(default)s)")
    parser.add_argument("--iterations", type=int, default=300, help="of a search (default %(default)s)")
    parser.add_argument("--train", type=int, default=10_000, help="samples that the networks learn from (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of training (default %(default)s)")
    parser.add_argument(
        "--channels", type=float, default=0.25, help="width of the small network of the searches (default %(default)s)"
    )
    parser.add_argument("--threshold", type=float, default=20.0, help="dB from which an image is recovered (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of networks, samples and draws (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/leakage/gradients"), help="(default %(default)s)")
    given = begin(parser)
    report = Report("Gradient inversion", given)
    known, test = load(given.data, "train").take(given.train, given.seed), load(given.data, "test")
    large, small = (trained(known, given, channels) for channels in (1.0, given.channels))
    for title, lines in (("The analytic attack by coding", CODINGS), ("The analytic attack against defences", DEFENCES)):
        measure(
            report, given, title, large, test.take(given.samples, given.seed), Plan(attacks=("analytic",), defences=parsed(lines))
        )
    search = GradientInversion(iterations=given.iterations, seed=given.seed)
    plan = Plan(attacks=tuple(METHODS), defences=parsed(SEARCHED), search=search)
    measure(report, given, "Searches on a small network", small, test.take(given.searched, given.seed), plan)


def parsed(lines: tuple[str, ...]) -> tuple[Defence, ...]:
    """The defences of these lines."""
    return tuple(map(Defence.parse, lines))


def trained(known: Dataset, given: Namespace, channels: float) -> SpikingNetwork:
    """A fully connected network with direct coding and T = 4."""
    classes = len(known.classes)
    model = build("mlp", input_shape=known.sample_shape, classes=classes, channels=channels, norm="none", seed=given.seed)
    return Outcomes(given.keep).trained(model, known, TrainConfig(epochs=given.epochs, seed=given.seed))[0]


def measure(report: Report, given: Namespace, title: str, model: SpikingNetwork, data: Dataset, plan: Plan) -> None:
    """A table of one plan."""
    judged = replace(plan, threshold=given.threshold)
    decides = {
        "model": model_hash(model), "data": data.samples_sha256, "attacks": [plan.settings(name) for name in plan.attacks],
        "defences": [each.line for each in plan.defences], "threshold": given.threshold, "seed": given.seed,
    }  # fmt: skip

    def run(out: Path) -> None:
        gradient_leakage(model, data, out, judged, seed=given.seed, told=lambda line: print(f"  {line}", flush=True))

    record = kept(given.keep, "gradients.json", decides, run)
    right = accuracy(model, data, seed=given.seed)
    note = (
        f"{len(data)} updates of one sample of {data.name} each, of which the network ({record['model']['parameters']:,} parameters) has "
        f"{right['successes']} right. Medians with 95 % intervals; an image is recovered from {given.threshold:g} dB on."
    )
    cells = [{key: value for key, value in cell.items() if key != "each"} for cell in record["cells"]]
    report.table(title, COLUMNS, [row(cell) for cell in record["cells"]], note, {"attacks": record["attacks"], "cells": cells})


def row(cell: dict[str, Any]) -> list[str]:
    """A cell of the record as texts."""
    spread, like, labels = cell["psnr"], cell["ssim"], cell["labels"]
    return [
        cell["attack"],
        cell["defence"],
        f"{spread['value']:.1f} ({spread['low']:.1f} to {spread['high']:.1f})",
        f"{like['value']:.2f} ({like['low']:.2f} to {like['high']:.2f})",
        f"{100 * labels['value']:.1f} ({100 * labels['low']:.1f} to {100 * labels['high']:.1f})",
        cell["outcome"],
    ]


if __name__ == "__main__":
    main()
