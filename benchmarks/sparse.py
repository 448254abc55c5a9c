"""Accuracy with most synapses gone: Grad R, magnitude and random masks against the dense network.

    python benchmarks/sparse.py
    python benchmarks/sparse.py --channels 1 --sparsities 0.95 --methods gradr,magnitude

Every network has the same initial weights of its seed and the same number of epochs. What was computed is kept under --keep, so that
a killed run goes on.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from calibration import Right, counted, described, network_options, recipe, right, sets
from harness import begin, options
from hybrid import difference
from outcomes import Outcomes
from report import Report

from trustsnn.data import Dataset
from trustsnn.models import SpikingNetwork, build
from trustsnn.training import GradR, TrainConfig, count_synapses, train
from trustsnn.training.compress import SPARSE, train_sparse

ALONE = "Grad R alone"


class Row(NamedTuple):
    """A trained network: who is right, its synapses, those that are left, and the processor time in seconds."""

    right: Right
    synapses: int
    active: int
    cpu: float


def main() -> None:
    """One table."""
    parser = options(__doc__.splitlines()[0])
    network_options(parser, Path("runs/training/sparse"))
    numbers = [0.9, 0.95, 0.98]
    parser.add_argument("--sparsities", type=_numbers, default=numbers, help="targets, with commas (default 0.9,0.95,0.98)")
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), default=list(SPARSE), help="(default gradr,magnitude,random)"
    )
    parser.add_argument("--alpha", type=float, default=GradR.alpha, help="of Grad R (default %(default)s)")
    parser.add_argument("--alone", type=_numbers, default=[], help="values of alpha for Grad R without masks, with commas")
    given = begin(parser)
    data, test, _ = sets(given)
    outcomes = Outcomes(given.keep)
    report = Report(f"Sparse synapses: {described(given, data, test)}, {given.epochs} epochs", given)
    rows, raw = [], []
    for seed in given.seeds:
        dense = fitted(given, data, test, seed, "dense", 0.0, 0.0, outcomes)
        wanted = [("dense", 0.0, 0.0)]
        wanted += [(how, p, given.alpha if how == "gradr" else 0.0) for p in given.sparsities for how in given.methods]
        wanted += [(ALONE, p, alpha) for p in given.sparsities for alpha in given.alone]
        for how, target, alpha in wanted:
            row = fitted(given, data, test, seed, how, target, alpha, outcomes)
            gone = 1 - row.active / row.synapses
            against = "" if how == "dense" else difference(row.right, dense.right)
            name = f"{how}, alpha {alpha:g}" if alpha else how
            shown = f"{gone:.2%} of {row.synapses:,}"
            rows.append(
                [str(seed), name, f"{target:.0%}" if target else "", shown, counted(row.right), against, f"{row.cpu:.0f}"]
            )
            raw.append(
                {"seed": seed, "name": name, "target": target, "gone": gone, "right": int(row.right.sum()), "cpu": row.cpu}
            )
    columns = ["seed", "synapses", "target", "gone", "correct", "points above dense", "s"]
    note = (
        "A synapse is an entry of a weight, a convolution's counted once. Wilson's interval; differences are paired by image, normal "
        "intervals, 95 %. Processor time of training. How: " + "; ".join(f"{name}: {what}" for name, what in SPARSE.items()) + "."
    )
    report.table("Accuracy with few synapses", columns, rows, note, raw)


def fitted(
    given: Namespace, data: Dataset, test: Dataset, seed: int, how: str, target: float, alpha: float, outcomes: Outcomes
) -> Row:
    """One network trained, from `outcomes` if it is there."""
    model = build(given.network, input_shape=data.sample_shape, classes=len(data.classes), channels=given.channels, seed=seed)
    config = recipe(given, given.epochs, seed)

    def fit(model: SpikingNetwork, data: Dataset, config: TrainConfig) -> None:
        if how == "dense":
            train(model, data, config)
        elif how == ALONE:
            with GradR(target, alpha).applied(model):
                train(model, data, config)
        else:
            train_sparse(model, data, config, target, how, alpha=alpha or GradR.alpha)

    model, cpu = outcomes.trained(model, data, config, fit, how=how, target=target, alpha=alpha)
    print(f"{how}, {target:g}: {cpu:.0f} s", flush=True)
    counts = count_synapses(model)
    total, active = (sum(column) for column in zip(*[row[1:] for row in counts], strict=True))
    return Row(right(model, test, outcomes), total, active, cpu)


def _numbers(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]


if __name__ == "__main__":
    main()
