"""What a robust recipe costs: the time of an epoch against standard training's, in one interleaved run.

    python benchmarks/robust_time.py --threads 1

Each round trains every contender from the same weights on the same images for one short epoch, one after the other. The paper has
HIRE-SNN at the cost of standard training (arXiv 2110.11417), wanted is at most 1.15 times that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from harness import begin, options, ratios, times
from report import Report

from trustsnn.data import Dataset, load
from trustsnn.defenses.robust import parse
from trustsnn.models import build
from trustsnn.training import TrainConfig, train

RECIPES = {"standard": None, "hire": "hire:eps={eps}", "at": "at:eps={eps}"}


class Case(NamedTuple):
    """A data set, a network, a factor on its channels, the images of a step, and eps."""

    data: str
    network: str
    channels: float
    batch: int
    eps: str

    def __str__(self) -> str:
        return f"{self.data}, {self.network}, {self.channels:g} of its channels, {self.batch} images a step"


CASES = [
    *(Case("mnist", "conv", channels, batch, "0.1") for channels in (0.5, 1.0) for batch in (64, 128)),
    *(Case("cifar10", network, 0.25, batch, "4/255") for network in ("conv", "vgg9") for batch in (64, 128)),
]


def main() -> None:
    """One table, a row for each case."""
    parser = options(__doc__.splitlines()[0], rounds=15, warmup=2)
    parser.add_argument("--steps", type=int, default=6, help="time steps T (default %(default)s)")
    parser.add_argument("--batches", type=int, default=8, help="steps of an epoch (default %(default)s)")
    given = begin(parser)
    rows, raw = [], {}
    for case in CASES:
        some = load(case.data, "train").take(case.batch * given.batches)
        seconds = times({name: epoch(case, name, some, given.steps) for name in RECIPES}, given.rounds, given.warmup)
        cost = [ratios(seconds, "standard", name) for name in RECIPES if name != "standard"]
        rows.append([str(case), *(f"{each.median:.2f} ({each.low:.2f} to {each.high:.2f})" for each in cost)])
        raw[str(case)] = seconds
        print("  " + "  ".join(rows[-1]), flush=True)
    title = f"Time of an epoch against standard training's, T = {given.steps}, leak and threshold learnt"
    note = f"Medians and quartiles of {given.rounds} rounds, each of {given.batches} steps. HIRE in two periods; AT with its 7 steps of PGD."
    report = Report("What robust training costs", given)
    report.table(title, ["training", *(name for name in RECIPES if name != "standard")], rows, note, raw)


def epoch(case: Case, name: str, data: Dataset, steps: int) -> Callable[[], object]:
    """A short epoch of a recipe from fresh weights."""
    text = RECIPES[name]
    recipe = parse(text.format(eps=case.eps)) if text else None
    config = TrainConfig(epochs=1, batch_size=case.batch)

    def run() -> object:
        model = build(case.network, input_shape=data.sample_shape, classes=10, channels=case.channels, steps=steps, learn=True)
        return train(model, data, config, recipe=recipe)

    return run


if __name__ == "__main__":
    main()
