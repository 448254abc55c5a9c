"""Hybrid training at few steps against plain conversion, against calibration, and against training from scratch for as long.

    python benchmarks/hybrid.py
    python benchmarks/hybrid.py --data cifar10 --network vgg9 --epochs 10 --augment shift-flip

One ReLU network a seed. Hybrid training (Rathi ICLR 2020) and DIET-SNN go on from its conversion for --tuning epochs, and from that of
a QCFS network (Bu ICLR 2022), whose training takes the place of the ReLU network's. Training from scratch is given at least as much
processor time as the ANN, the conversion and the training after it took together: its epochs are rounded up. A second network from
scratch has as much as the training after the conversion alone. What was computed is kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

import copy
import math
import time
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from calibration import PLAIN, Right, converted, counted, described, network, network_options, recipe, right, sets, whole
from harness import begin, options
from outcomes import Arrays, Outcomes
from report import Report

from trustsnn.checkpoint import model_hash
from trustsnn.conversion import Calibration, convert, hybrid_start
from trustsnn.conversion.hybrid import DIET_SCALE, SCALE
from trustsnn.data import Dataset
from trustsnn.models import SpikingNetwork, build
from trustsnn.neurons.stdb import STDB
from trustsnn.training import train

QCFS = "QCFS: rate"
HYBRIDS: dict[str, dict[str, Any]] = {
    "hybrid": {"scale": SCALE},
    "hybrid, V0 = V/2": {"scale": SCALE, "initial": 0.5},
    "hybrid, STDB": {"scale": SCALE, "stdb": True},
    "DIET-SNN": {"scale": DIET_SCALE, "learn": True},
    "QCFS: hybrid": {},
    "QCFS: DIET-SNN": {"learn": True},
}


class Start(NamedTuple):
    """A trained ANN and the processor time that it took, in seconds."""

    ann: SpikingNetwork
    cpu: float


class Row(NamedTuple):
    """A network of a table, who is right, and the processor time that it took in all, in seconds."""

    name: str
    right: Right
    cpu: float


def main() -> None:
    """One table."""
    parser = options(__doc__.splitlines()[0])
    network_options(parser, Path("runs/conversion/calibration"))
    parser.add_argument("--steps", type=whole, default=[2, 4, 8], help="with commas (default 2,4,8)")
    parser.add_argument("--tuning", type=int, default=2, help="epochs after the conversion (default %(default)s)")
    parser.add_argument("--levels", type=int, default=4, help="L of the QCFS network (default %(default)s)")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of those (default %(default)s)")
    given = begin(parser)
    data, test, samples = sets(given)
    outcomes = Outcomes(given.keep)
    report = Report(f"Hybrid training: {described(given, data, test)}", given)
    rows, raw = [], []
    for seed in given.seeds:
        relu, qcfs = (
            Start(*network(given, data, seed, outcomes, **kind))
            for kind in ({}, {"neuron": "qcfs", "levels": given.levels, "threshold": 2.0})
        )
        for name, (ann, cpu) in {"ANN": relu, f"QCFS, L = {given.levels}": qcfs}.items():
            rows.append([str(seed), name, "1", counted(right(ann, test, outcomes)), f"{cpu:.0f}", "", ""])
        for steps in given.steps:
            found = networks(given, relu, qcfs, steps, data, test, samples, seed, outcomes)
            kept = {row.name: row for row in found}
            for row in found:
                plain = kept[QCFS if row.name.startswith("QCFS") else PLAIN]
                against = [difference(row.right, other.right) if row is not other else "" for other in (plain, kept["scratch"])]
                rows.append([str(seed), row.name, str(steps), counted(row.right), f"{row.cpu:.0f}", *against])
                raw.append({"seed": seed, "name": row.name, "steps": steps, "right": int(row.right.sum()), "cpu": row.cpu})
    columns = ["seed", "network", "T", "correct", "s", "points above plain conversion", "points above scratch"]
    note = (
        "Processor time of one thread in all: ANN, conversion and training. `scratch` trains for as long as the slowest of them took in all, "
        "`scratch, tuning time` for that less the ANN's. Plain conversion is that of the same ANN: by the largest activation, or of QCFS "
        "to a rate. Differences are paired by image; normal intervals, 95 %."
    )
    report.table("Few steps", columns, rows, note, raw)


def networks(
    given: Namespace, relu: Start, qcfs: Start, steps: int, data: Dataset, test: Dataset, samples: Dataset, seed: int,
    outcomes: Outcomes,
) -> list[Row]:  # fmt: skip
    """Every network of one T."""
    rows = []
    for method in (PLAIN, "calibrate"):
        kept = converted(
            relu.ann, method, steps, Calibration(samples, iterations=given.iterations, seed=seed), test, 500, outcomes
        )
        rows.append(Row(method, kept["right"], relu.cpu + float(kept["cpu"])))
    rows.append(Row(QCFS, right(convert(qcfs.ann, "rate", steps=steps), test, outcomes), qcfs.cpu))
    config = recipe(given, given.tuning, seed, given.rate)
    for name, settings in HYBRIDS.items():
        ann, spent, calibration = *qcfs, None
        if "scale" in settings:
            ann, spent, calibration = *relu, Calibration(samples, scale=settings["scale"], initial=settings.get("initial", 0.0))
        begun = time.process_time()
        model = hybrid_start(ann, steps, calibration, learn=settings.get("learn", False))
        applied = STDB().applied(model) if "stdb" in settings else nullcontext()
        cpu = spent + time.process_time() - begun
        with applied:
            model, more = outcomes.trained(model, data, config)
        rows.append(Row(name, right(model, test, outcomes), cpu + more))
        print(f"{name}, T = {steps}: {more:.0f} s", flush=True)
    longest = max(row.cpu for row in rows)
    for name, seconds in (("scratch", longest), ("scratch, tuning time", longest - max(relu.cpu, qcfs.cpu))):
        fresh = build(
            given.network,
            input_shape=data.sample_shape,
            classes=len(data.classes),
            channels=given.channels,
            steps=steps,
            seed=seed,
        )
        epochs = math.ceil(seconds / _epoch(given, fresh, data, seed, outcomes))
        fresh, cpu = outcomes.trained(fresh, data, recipe(given, epochs, seed))
        rows.append(Row(name, right(fresh, test, outcomes), cpu))
        print(f"{name}, T = {steps}: {epochs} epochs, {cpu:.0f} s", flush=True)
    return rows


def _epoch(given: Namespace, fresh: SpikingNetwork, data: Dataset, seed: int, outcomes: Outcomes) -> float:
    """The processor time of an epoch from scratch, in seconds, from one on an eighth of the images."""
    part = data.take(max(2 * given.batch, len(data) // 8))
    decides = {"epoch": model_hash(fresh), "data": part.samples_sha256, "batch": given.batch, "threads": given.threads}

    def compute() -> Arrays:
        train(copy.deepcopy(fresh), part, recipe(given, 1, seed))
        return {}

    return float(outcomes.get(decides, compute)["processor"]) * len(data) / len(part)


def difference(one: Right, other: Right) -> str:
    """By how many points `one` is above `other`, with the 95 % interval of the mean of the paired differences."""
    each = 100 * (one.astype(float) - other)
    half = 1.96 * each.std() / math.sqrt(len(each))
    return f"{each.mean():+.2f} ({each.mean() - half:+.2f} to {each.mean() + half:+.2f})"


if __name__ == "__main__":
    main()
