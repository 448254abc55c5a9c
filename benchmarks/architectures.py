"""Every family of architectures at its laptop size, each trained for the same processor time, beside plain convolutional networks.

    python benchmarks/architectures.py --threads 1
    python benchmarks/architectures.py --threads 1 --minutes 20 --augment shift-flip

A few steps of each network are timed first. They say how many steps fit into --minutes of processor time; the learning rate falls to 0
over exactly those. A network that sees the images more than once has as many of them as make whole epochs. All have the same batches,
optimiser and test images. What was computed is kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

import copy
import math
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from calibration import Right, counted, right
from harness import begin, options
from hybrid import difference
from outcomes import Arrays, Outcomes
from report import Report

from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, load
from trustsnn.errors import ModelContractError
from trustsnn.models import SpikingNetwork, build
from trustsnn.training import Progress, TrainConfig, train

CIFAR10 = 50_000  # training images of the whole
BASELINES = ("conv", "vgg9:0.25")
NETWORKS = (
    "resnet-small",
    "sew-resnet-small",
    "sew-resnet-small/and",
    "sew-resnet-small/iand",
    "ms-resnet-small",
    "spikformer-small",
    "spikingformer-small",
    "sdt-small",
    *BASELINES,
)


class Row(NamedTuple):
    """A trained network: who is right of the test images, its parameters, the steps that it took over how many different images,
    processor seconds, and whether every loss was finite; where one was not, the training ended there."""

    right: Right
    parameters: int
    steps: int
    images: int
    cpu: float
    finite: bool


def main() -> None:
    """One table."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    data, test = (load(given.data, split).take(getattr(given, split)) for split in ("train", "test"))
    outcomes = Outcomes(given.keep)
    report = Report(
        f"Architectures: {given.data}, {len(data)} training and {len(test)} test images, {given.minutes:g} minutes each", given
    )
    rows = {name: fitted(given, name, data, test, outcomes) for name in given.networks}
    baselines = [name for name in given.networks if name in given.baselines]
    shown = []
    for name, row in rows.items():
        seen = [f"{row.steps:,}", f"{row.steps * given.batch:,}", f"{row.images:,}", f"{row.cpu:.0f} s"]
        judged = ["a loss is not finite"] + [""] * len(baselines)
        if row.finite:
            above = (difference(row.right, rows[each].right) if name != each and rows[each].finite else "" for each in baselines)
            judged = [counted(row.right), *above]
        shown.append([name, f"{row.parameters:,}", str(given.steps), *seen, *judged])
    columns = [
        "network", "parameters", "T", "steps", "images seen", "different", "training", "correct",
        *(f"points above {name}" for name in baselines),
    ]  # fmt: skip
    note = (
        f"{given.steps} time steps, batches of {given.batch}, AdamW, one seed ({given.seed}); a number behind a name multiplies the channels, "
        "a word is how shortcuts join (`add` if none). "
        "Training: processor time. Wilson's interval; differences are paired by image; normal intervals, 95 %. They are over the test "
        "images and know nothing of what another seed would give."
    )
    if given.data == "cifar10" and len(data) < CIFAR10:
        note += " The data are a part of CIFAR-10: figures do not compare with published ones."
    raw = {
        name: {**{k: v for k, v in row._asdict().items() if k != "right"}, "right": int(row.right.sum()), "count": len(test)}
        for name, row in rows.items()
    }
    report.table("Accuracy after the same processor time", columns, shown, note, raw)


def fitted(given: Namespace, name: str, data: Dataset, test: Dataset, outcomes: Outcomes) -> Row:
    """One network trained, from `outcomes` if it is there."""
    kind, _, channels = name.partition(":")
    kind, _, merge = kind.partition("/")
    joined = {"merge": merge} if merge else {}
    model = build(
        kind, input_shape=data.sample_shape, classes=len(data.classes), steps=given.steps, channels=float(channels or 1),
        seed=given.seed, **joined,
    )  # fmt: skip
    pace = seconds_a_step(given, model, data, outcomes)
    epochs, per_epoch = schedule(60 * given.minutes / pace, len(data) // given.batch)
    part, config = data.take(per_epoch * given.batch), recipe(given, epochs)
    decides = {
        "start": model_hash(model), "training": asdict(config), "data": part.samples_sha256, "threads": torch.get_num_threads(),
    }  # fmt: skip

    def compute() -> Arrays:
        steps, finite = 0, True

        def count(_: Progress) -> None:
            nonlocal steps
            steps += 1

        try:
            train(model, part, config, on_step=count)
        except ModelContractError as error:  # what a loss that is not finite ends with
            print(f"{name}: {error}", flush=True)
            finite = False
        print(f"{name}: {steps} of {epochs * per_epoch} steps", flush=True)
        state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        return {**state, "steps": np.array(steps), "finite": np.array(finite)}

    kept = outcomes.get(decides, compute)
    model.load_state_dict({key: torch.from_numpy(kept[key]) for key in model.state_dict()})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Row(
        right(model.eval(), test, outcomes),
        parameters,
        int(kept["steps"]),
        len(part),
        float(kept["processor"]),
        bool(kept["finite"]),
    )


def recipe(given: Namespace, epochs: int) -> TrainConfig:
    """The training that every network gets, but for its length."""
    return TrainConfig(
        epochs=epochs, batch_size=given.batch, learning_rate=given.rate, augmentation=given.augment, seed=given.seed
    )


def seconds_a_step(given: Namespace, model: SpikingNetwork, data: Dataset, outcomes: Outcomes) -> float:
    """The median processor time of a training step, after two that warm up; weights hardly move, so that no loss goes astray."""
    steps = 2 + given.probe
    part, config = data.take(steps * given.batch), replace(recipe(given, 1), learning_rate=1e-9)
    decides = {
        "pace": model_hash(model), "training": asdict(config), "data": part.samples_sha256, "threads": torch.get_num_threads(),
    }  # fmt: skip

    def compute() -> Arrays:
        times: list[float] = []
        train(copy.deepcopy(model), part, config, on_step=lambda _: times.append(time.process_time()))
        return {"cpu": np.median(np.diff(times)[1:])}

    return float(outcomes.get(decides, compute)["cpu"])


def schedule(fitting: float, longest: int) -> tuple[int, int]:
    """Epochs and steps of each, together as many as fit, or fewer by less than one an epoch; no epoch is longer than `longest`."""
    epochs = max(1, math.ceil(fitting / longest))
    return epochs, max(1, int(fitting / epochs))


def _arguments(parser: ArgumentParser) -> None:
    names = ",".join(NETWORKS)
    parser.add_argument("--data", default="cifar10", help="(default %(default)s)")
    parser.add_argument("--networks", type=_names, default=list(NETWORKS), help=f"with commas, NAME or NAME:CHANNELS ({names})")
    parser.add_argument("--baselines", type=_names, default=list(BASELINES), help=f"among them (default {','.join(BASELINES)})")
    parser.add_argument("--minutes", type=float, default=3.0, help="of processor time for each training (default %(default)s)")
    parser.add_argument("--probe", type=int, default=5, help="steps that are timed first (default %(default)s)")
    parser.add_argument("--train", type=int, default=CIFAR10, help="training images at most (default %(default)s)")
    parser.add_argument("--test", type=int, default=3000, help="test images at most (default %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="time steps T (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="of training (default %(default)s)")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate at the start (default %(default)s)")
    parser.add_argument("--augment", default="none", help="in training (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/bench/outcomes"), help="(default %(default)s)")


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
