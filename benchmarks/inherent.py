"""The old question of inherent robustness under the ensemble: spiking networks against an ANN that is trained in the same way.

    python benchmarks/inherent.py

`conv` on a part of MNIST: rate against direct coding, several T and leaks, and the same layers with ReLU in place of neurons, all
trained from scratch by the same recipe (Sharmin 2020, arXiv 2003.10399; HIRE-SNN 2021, arXiv 2110.11417 asked with one surrogate
and few attacks). A stochastic network is attacked without and with expectation over transformation (EOT), and judged by fresh
draws: by the mean of its logits and by one forward pass. What was computed is kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import begin, options
from numpy.typing import NDArray
from outcomes import Arrays, Outcomes
from report import Report, share_of
from torch import nn

from trustsnn.attacks import PGD, Attack, Square, Transfer
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork, build
from trustsnn.rng import Draws
from trustsnn.training import TrainConfig, accuracy

Correct = NDArray[np.bool_]
ANN = "ANN"
SOURCE_SEED = 1000  # of the ANN that transfers, which has no row


class Row(NamedTuple):
    """One line of the tables: a network, how it was attacked and judged, and who was right, by attack and eps."""

    name: str
    seed: int
    attacked: str
    judged: str
    clean: Correct
    right: dict[str, dict[float, Correct]]


def networks(given: Namespace) -> dict[str, dict[str, Any] | None]:
    """The settings of every network by name; None for the ANN."""
    wanted = [("direct", "direct", steps, given.leak) for steps in numbers(given.steps)]
    wanted += [("direct", "direct", given.leak_steps, leak) for leak in numbers(given.leaks, float)]
    wanted += [("rate", "poisson", steps, given.leak) for steps in numbers(given.rate_steps)]
    spiking = {
        f"{coding}, T {steps}, leak {leak:g}": {"encoder": encoder, "steps": steps, "leak": leak}
        for coding, encoder, steps, leak in wanted
    }
    return {ANN: None, **spiking}


def numbers(text: str, kind: type = int) -> list[Any]:
    """The numbers in a text with commas; none in an empty one."""
    return [kind(each) for each in text.split(",") if each]


def training_options(parser: ArgumentParser, channels: float) -> None:
    """Add what `recipe` takes, where trained networks are kept, and the factor on conv's channels."""
    parser.add_argument("--train", type=int, default=10_000, help="training samples (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="of training (default %(default)s)")
    parser.add_argument("--channels", type=float, default=channels, help="factor on conv's channels (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/attacks/outcomes"), help="(default %(default)s)")


def recipe(given: Namespace, seed: int = 0) -> TrainConfig:
    """The training that every network of a table gets."""
    return TrainConfig(epochs=given.epochs, batch_size=given.batch, seed=seed)


def network(settings: dict[str, Any] | None, seed: int, channels: float) -> SpikingNetwork:
    """A fresh `conv` for MNIST; for None the same layers with ReLU in place of neurons."""
    model = build("conv", input_shape=(1, 28, 28), classes=10, channels=channels, seed=seed, **(settings or {}))
    return model if settings is not None else ann_twin(model).network


def answers(model: nn.Module, attack: Attack | None, data: Dataset, draws: int, outcomes: Outcomes) -> NDArray[np.float32]:
    """Logits [D, N, K] on `data` under an attack or none: for a stochastic model by each of `draws` fresh draws, D of them, which
    no attack has seen; else D is 1."""
    count = draws if is_stochastic(model) else 1
    threat = None if attack is None else attack.describe()
    decides = {
        "model": model_hash(model), "samples": data.samples_sha256, "threat": threat, "seed": attack.seed if attack else None,
        "draws": count, "threads": torch.get_num_threads(),
    }  # fmt: skip

    def compute() -> Arrays:
        x, y = (torch.from_numpy(values) for values in data.batch(range(len(data))))
        adversarial = x if attack is None else attack(model, x, y, data.ids)
        fresh = Draws(0, "judge", data.ids)
        with frozen(model):
            return {"logits": torch.stack([predict(model, adversarial, fresh.child(k)) for k in range(count)]).numpy()}

    return outcomes.get(decides, compute)["logits"]


def attacks(eps: float, eot: int, source: nn.Module, given: Namespace) -> dict[str, Attack]:
    """The attacks of a table by the heading of their column."""
    return {
        f"PGD-{given.iterations}, own surrogate": PGD(eps=eps, steps=given.iterations, eot=eot),
        f"ensemble, {given.profile}": SNNAutoAttack(eps=eps, profile=given.profile, eot=eot),
        f"Square, {given.queries} queries": Square(eps=eps, queries=given.queries, eot=eot),
        "transfer from an ANN": Transfer(eps=eps, steps=given.iterations, source=source, eot=eot),
    }


def measured(
    name: str, seed: int, model: nn.Module, source: nn.Module, test: Dataset, outcomes: Outcomes, given: Namespace
) -> list[Row]:
    """The rows of one network: one if it is deterministic, four if it is not (EOT or none, judged by the mean or by one draw)."""
    rows = []
    stochastic = is_stochastic(model)
    for eot in (1, given.eot) if stochastic else (1,):
        logits: dict[str, dict[float, NDArray[np.float32]]] = {}
        for eps in numbers(given.eps, float):
            for heading, attack in attacks(eps, eot, source, given).items():
                logits.setdefault(heading, {})[eps] = answers(model, attack, test, given.judges, outcomes)
                print(f"  {name}, seed {seed}: {heading}, eps {eps:g}, EOT {eot}", file=sys.stderr)
        clean = answers(model, None, test, given.judges, outcomes)
        judges = {f"mean of {given.judges} draws": slice(None), "one draw": slice(1)} if stochastic else {"": slice(None)}
        for judged, used in judges.items():
            before = clean[used].mean(0).argmax(1) == test.labels
            right = {
                heading: {eps: before & (each[used].mean(0).argmax(1) == test.labels) for eps, each in by_eps.items()}
                for heading, by_eps in logits.items()
            }
            rows.append(Row(name, seed, f"EOT {eot}" if stochastic else "", judged, before, with_worst(right)))
    return rows


def with_worst(right: dict[str, dict[float, Correct]]) -> dict[str, dict[float, Correct]]:
    """With one column more: right under every attack, at that eps and at each below it, for the balls are nested."""
    worst: dict[float, Correct] = {}
    for eps in next(iter(right.values())):
        worst[eps] = np.logical_and.reduce([each for by_eps in right.values() for at, each in by_eps.items() if at <= eps])
    return {**right, "all of them": worst}


def tabulate(report: Report, rows: list[Row], given: Namespace) -> None:
    """For each eps robust accuracy over all images, then over those that are right without an attack."""
    headings = list(rows[0].right)
    told = [[row.name, str(row.seed), row.attacked, row.judged] for row in rows]
    count = len(rows[0].clean)
    columns = ["network", "seed", "attacked with", "judged by"]
    note = (
        f"Of {count} test images, the same for all; 95 % Wilson intervals, of the images alone and not of the training. A sample is "
        'robust if it is right without and under the attack. "All of them" also counts what broke it at a smaller eps. A network '
        f"that draws is judged by {given.judges} fresh draws, or by the first of these, which the attacks never saw; a query of "
        "Square or a gradient averages over as many draws as EOT says, and the ensemble drops a sample once the mean of as many is "
        f"wrong. The transfer comes from an ANN of another seed, by PGD-{given.iterations}; transfer from a network's own twin is in "
        "the ensemble. The ANN has no surrogate: its gradient is exact."
    )
    for eps in numbers(given.eps, float):
        raw = [{"clean": int(row.clean.sum()), **{h: int(row.right[h][eps].sum()) for h in headings}} for row in rows]
        lines = [[share_of(right, count) for right in each.values()] for each in raw]
        report.table(f"Robust accuracy, eps {eps:g}", [*columns, "clean", *headings], _joined(told, lines), note, raw)
    for eps in numbers(given.eps, float):
        lines = []
        for row in rows:
            right = int(row.clean.sum())
            lines.append([str(right), *(share_of(int(row.right[h][eps].sum()), right) for h in headings)])
        report.table(
            f"Relative robustness, eps {eps:g}", [*columns, "right when clean", *headings], _joined(told, lines),
            "The share that stays right of the images that are right without an attack.",
        )  # fmt: skip


def _joined(left: list[list[str]], right: list[list[str]]) -> list[list[str]]:
    return [[*a, *b] for a, b in zip(left, right, strict=True)]


def main() -> None:
    """A table of the networks, then two for each eps."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    outcomes = Outcomes(given.keep)
    data, test = load("mnist", "train").take(given.train), load("mnist", "test")
    whole, test = test.take(given.clean), test.take(given.samples)
    report = Report(f"Inherent robustness: conv on MNIST, {given.train:,} training images", given)
    learn = partial(outcomes.trained, data=data)
    source, _ = learn(network(None, SOURCE_SEED, given.channels), config=recipe(given, SOURCE_SEED))
    trained, lines = [], []
    for name, settings in networks(given).items():
        for seed in range(given.seeds):
            model, seconds = learn(network(settings, seed, given.channels), config=recipe(given, seed))
            figure = accuracy(model, whole)
            print(f"  {name}, seed {seed}: {figure['value']:.1%} clean, trained in {seconds:.0f} s", file=sys.stderr)
            trained.append((name, seed, model))
            lines.append([name, str(seed), share_of(figure["successes"], figure["count"]), f"{seconds:.0f} s"])
    report.table(
        "Networks", ["network", "seed", "clean", "training"], lines,
        f"{given.channels:g} of conv's channels; {given.epochs} epochs of {len(data):,} images in batches of {given.batch}, AdamW, "
        f"the rest as `trustsnn train bptt` has it. Clean accuracy on {len(whole):,} test images, by one draw where the network draws; "
        "95 % Wilson intervals. The ANN is conv with ReLU in place of neurons, trained from the same initial weights.",
    )  # fmt: skip
    tabulate(report, [row for each in trained for row in measured(*each, source, test, outcomes, given)], given)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--steps", default="4,8,16,32,100", help="T under direct coding (default %(default)s)")
    parser.add_argument("--rate-steps", default="16,32", help="T under rate coding (default %(default)s)")
    parser.add_argument("--leaks", default="0.8,0.9,0.95,1", help="at --leak-steps; 1 leaks nothing (default %(default)s)")
    parser.add_argument("--leak-steps", type=int, default=8, help="T of the networks of --leaks (default %(default)s)")
    parser.add_argument("--leak", type=float, default=0.9, help="of all others (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="of training (default %(default)s)")
    training_options(parser, channels=0.25)
    parser.add_argument("--clean", type=int, default=1000, help="test images for clean accuracy (default %(default)s)")
    parser.add_argument("--samples", type=int, default=200, help="test images under attack (default %(default)s)")
    parser.add_argument("--eps", default="0.05,0.1,0.2", help="radii, linf (default %(default)s)")
    parser.add_argument("--iterations", type=int, default=20, help="of PGD (default %(default)s)")
    parser.add_argument("--queries", type=int, default=100, help="of Square (default %(default)s)")
    parser.add_argument("--profile", default="quick", help="of the ensemble (default %(default)s)")
    parser.add_argument("--eot", type=int, default=10, help="draws behind each gradient and query (default %(default)s)")
    parser.add_argument("--judges", type=int, default=10, help="fresh draws that judge (default %(default)s)")


if __name__ == "__main__":
    main()
