"""Robust training: what each recipe gains through a network's own surrogate, and what the ensemble leaves of that.

    python benchmarks/hardening.py
    python benchmarks/hardening.py --data cifar10 --network vgg9 --channels 0.25 --eps 2/255,4/255 --augment shift-flip

Every network begins with the same weights and trains for the same epochs on the same images, one after the other; the time is that
of the processor. `robust-ann` trains for as many twice, as an ANN and as a spiking network.
Adversarial training takes longer: so standard training and HIRE-SNN are trained again for as long as it took.
Trained networks and their answers are kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from harness import begin, options
from inherent import Correct, answers
from outcomes import Outcomes
from report import Report, share_of

from trustsnn.attacks import FGSM, PGD
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.base import Attack
from trustsnn.data import Dataset, load
from trustsnn.defenses.robust import RobustANN, parse
from trustsnn.models import SpikingNetwork, build
from trustsnn.reports.compare import paired
from trustsnn.reports.hardening import outcome, points
from trustsnn.runners.config import parse_eps
from trustsnn.training import TrainConfig, train

STANDARD, LEARNT = "standard", "standard, leak and threshold learnt"
LONGER = ("standard", "hire")


class Trained(NamedTuple):
    """A network, its epochs and the processor time that they took."""

    model: SpikingNetwork
    epochs: int
    seconds: float


def recipes(eps: float) -> dict[str, str]:
    """The recipes by the names of their rows, as `parse` reads them."""
    return {
        "hire": f"hire:periods=2:eps={eps}",
        "at": f"at:eps={eps}:steps=3",
        "trades": f"trades:eps={eps}:steps=3",
        "rat": f"rat:eps={eps}",
        "sr": "sr",
        "stog": "stog",
        "feel": "feel",
        "mpd-sgr": "mpd-sgr",
        "tgo": "tgo",
        "mppd-tv": f"mppd-tv:eps={eps}:steps=3",
        "noise": "noise",
        "robust-ann": f"robust-ann:eps={eps}:steps=3",
        "at+mpd-sgr": f"at:eps={eps}:steps=3+mpd-sgr",
    }


def main() -> None:
    """A table for each eps."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    outcomes = Outcomes(given.keep)
    data, test = load(given.data, "train").take(given.train), load(given.data, "test").take(given.test)
    sizes = [parse_eps(each) for each in given.eps.split(",")]
    known = recipes(sizes[0])
    wanted = [name for name in known if given.recipes is None or name in given.recipes.split(",")]
    _fit(
        fresh(given, data), data.take(2 * given.batch), TrainConfig(epochs=1, batch_size=given.batch), None
    )  # warms up the kernels
    found: dict[str, Trained] = {}
    for name in (STANDARD, LEARNT, *wanted):
        found[name] = trained(given, known.get(name), data, outcomes, learn=name in (LEARNT, "hire"))
        print(f"{name}: {found[name].seconds:.0f} s", flush=True)
    if "at" in found:
        for name in (each for each in LONGER if each in found):
            epochs = round(given.epochs * found["at"].seconds / found[name].seconds)
            longer = trained(given, known.get(name), data, outcomes, learn=name == "hire", epochs=epochs)
            found[f"{name}, in the time of at"] = longer
    size = "" if given.channels == 1 else f", {given.channels:g} of its channels,"
    report = Report(
        f"Robust training: {given.network}{size} on {given.data}, T = {given.steps}, {len(data)} training images", given
    )
    for eps in sizes:
        table(report, given, eps, found, test, outcomes)


def trained(
    given: Namespace, text: str | None, data: Dataset, outcomes: Outcomes, *, learn: bool, epochs: int | None = None
) -> Trained:
    """The network after standard training, or after the recipe of a line."""
    network = fresh(given, data, learn)
    config = TrainConfig(epochs=epochs or given.epochs, batch_size=given.batch, augmentation=given.augment, seed=given.seed)
    if text is None:
        model, seconds = outcomes.trained(network, data, config)
        return Trained(model, config.epochs, seconds)
    recipe = parse(text)
    recipe.check(network)
    learn_by = {"fit": partial(_fit, recipe=recipe), "recipe": recipe.describe()}
    before, parts = 0.0, 1
    if isinstance(recipe, RobustANN):
        ann, before = outcomes.trained(recipe.ann(network, given.seed), data, config, **learn_by)
        network, parts = recipe.converted(ann, data, network), 2
    else:
        network = recipe.adapted(network)
    model, seconds = outcomes.trained(network, data, config, **learn_by)
    return Trained(model, parts * config.epochs, before + seconds)


def fresh(given: Namespace, data: Dataset, learn: bool = False) -> SpikingNetwork:
    """The network that every recipe begins with."""
    return build(
        given.network, input_shape=data.sample_shape, classes=len(data.classes), steps=given.steps, channels=given.channels,
        learn=learn, seed=given.seed,
    )  # fmt: skip


def _fit(model: SpikingNetwork, data: Dataset, config: TrainConfig, recipe: Any) -> None:
    train(model, data, config, recipe=recipe)


def table(report: Report, given: Namespace, eps: float, found: dict[str, Trained], test: Dataset, outcomes: Outcomes) -> None:
    """A row for each network at one eps."""
    rows, raw, base = [], [], found[STANDARD]
    reference: dict[str, Correct] = {}
    for name, each in found.items():
        right = judged(given, eps, each.model, test, outcomes)
        reference = reference or right
        print(f"eps {eps:g}, {name}: {', '.join(f'{key} {value.mean():.1%}' for key, value in right.items())}", flush=True)
        gains = [paired(pd.Series(reference[key]), pd.Series(right[key])) for key in list(right)[-2:]]
        ratio = each.seconds / each.epochs / (base.seconds / base.epochs)
        figures = [share_of(int(value.sum()), len(value)) for value in right.values()]
        rows.append(
            [
                name,
                str(each.epochs),
                f"{ratio:.2f}",
                *figures,
                *(points(gain["difference"]) for gain in gains),
                "" if name == STANDARD else outcome(*gains),
            ]
        )
        raw.append({"name": name, "seconds": each.seconds, **{key: int(value.sum()) for key, value in right.items()}})
    ensemble, first = f"ensemble, {given.profile}", parse_eps(given.eps.split(",")[0])
    columns = [
        "recipe",
        "epochs",
        "time of an epoch",
        "clean",
        "FGSM",
        "PGD-10",
        ensemble,
        "gain, PGD-10",
        f"gain, {ensemble}",
        "",
    ]
    note = (
        f"{len(test)} test images; 95 % intervals: Wilson, and of paired differences in points (Bonett and Price). A sample is robust if it "
        "is right without and under the attack; the ensemble's column counts what any attack broke. Times are ratios to standard training. "
        f"Whatever the eps of a table, recipes are {', '.join(recipes(float(f'{first:.3g}')).values())}."
    )
    report.table(f"eps {eps:g}", columns, rows, note, raw)


def judged(given: Namespace, eps: float, model: SpikingNetwork, test: Dataset, outcomes: Outcomes) -> dict[str, Correct]:
    """Who is right without an attack, and stays so under each one; the last also under those before."""
    eot = given.eot if model.spec.stochastic else 1
    attacks: dict[str, Attack | None] = {
        "clean": None,
        "FGSM": FGSM(eps=eps, eot=eot),
        "PGD-10": PGD(eps=eps, steps=10, eot=eot),
        "ensemble": SNNAutoAttack(eps=eps, profile=given.profile, eot=eot),
    }
    logits = {name: answers(model, attack, test, given.judges, outcomes) for name, attack in attacks.items()}
    right = {name: each.mean(0).argmax(1) == test.labels for name, each in logits.items()}
    right = {name: each & right["clean"] for name, each in right.items()}
    right["ensemble"] = np.logical_and.reduce(list(right.values()))
    return right


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="factor on the channels (default %(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="time steps T (default %(default)s)")
    parser.add_argument("--train", type=int, default=10_000, help="training images (default %(default)s)")
    parser.add_argument("--test", type=int, default=500, help="test images (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="(default %(default)s)")
    parser.add_argument("--augment", default="none", help="(default %(default)s)")
    parser.add_argument("--eps", default="0.1,0.2", help="of the attacks; the first is that of training (default %(default)s)")
    parser.add_argument("--recipes", help="some of them, with commas (default: all)")
    parser.add_argument("--profile", default="quick", help="of the ensemble (default %(default)s)")
    parser.add_argument("--eot", type=int, default=5, help="draws a gradient of networks that draw (default %(default)s)")
    parser.add_argument("--judges", type=int, default=10, help="fresh draws that judge those (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/hardening/outcomes"), help="(default %(default)s)")


if __name__ == "__main__":
    main()
