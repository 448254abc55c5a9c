"""The one-step network of windows against the same cells on the whole map over T time steps.

    python benchmarks/onestep.py
    python benchmarks/onestep.py --data cifar10 --channels 0.25 --train 10000 --test 10000 --epochs 30
    python benchmarks/onestep.py --network onestep-rnn --channels 0.5 --projections coded,intended,mean

All have as many weights, which start from the same values, and train by the same recipe on the same part of the data. The whole map
at T = 1 shows what the windows add. Trained weights are kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import begin, options, times
from numpy.typing import NDArray
from outcomes import Outcomes
from report import Report, share

from trustsnn.blocks import BLOCK, frozen, observe, predict
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork
from trustsnn.models.onestep import build_onestep
from trustsnn.statistics import proportion
from trustsnn.training import TrainConfig

POINT = 0.01


def main() -> None:
    """One table of accuracies and training times, one of inference times."""
    parser = options(__doc__.splitlines()[0], rounds=9)
    _arguments(parser)
    given = begin(parser)
    data, test = (load(given.data, split).take(getattr(given, split)) for split in ("train", "test"))
    x, y = (torch.from_numpy(each) for each in test.batch(range(len(test))))
    outcomes = Outcomes(given.keep)
    forms = contenders(given)
    baseline = list(forms)[-1]
    right: dict[str, NDArray[np.bool_]] = {}  # [seeds, samples]
    seconds: dict[str, list[float]] = {}
    spikes: dict[str, float] = {}
    first: dict[str, SpikingNetwork] = {}
    for name, settings in reversed(forms.items()):
        answers, seconds[name] = [], []
        for seed in range(given.seeds):
            model, taken = learned(given, settings, seed, data, outcomes)
            with frozen(model):
                answers.append((predict(model, x).argmax(1) == y).numpy())
                if seed == 0:
                    seen = observe(model, x[: 8 * BLOCK]).spikes.values()
                    first[name], spikes[name] = model, sum(fired for fired, _ in seen) / len(x[: 8 * BLOCK])
            seconds[name].append(taken)
            print(f"  {name}, seed {seed}: {answers[-1].mean():.2%}, trained in {taken:.0f} s of processor time", flush=True)
        right[name] = np.stack(answers)
    title = f"{given.network}, {given.data}: {len(data)} training and {len(test)} test images, {given.epochs} epochs"
    report = Report(title, given)
    columns = ["", "each seed", "all seeds", f"less {baseline}, in points", "within a point", "training", "spikes a sample"]
    rows = [
        [name, ", ".join(f"{each:.2%}" for each in right[name].mean(1)), accuracy, *_difference(right[name], right[baseline]),
         f"{np.mean(seconds[name]):.0f} s", f"{spikes[name]:,.0f}"]
        for name in forms
        for accuracy in [share(proportion(int(right[name].sum()), right[name].size), 2, counted=True)]
    ]  # fmt: skip
    note = (
        "95 % intervals, Wilson's for accuracies; those of a difference are over the test images, whose differences are each the mean "
        "over the seeds, and know nothing of what other seeds would give. Training: processor time, mean over the seeds."
    )
    raw = {name: {"right": right[name].sum(1).tolist(), "count": len(test), "training": seconds[name]} for name in forms}
    report.table("Accuracy", columns, rows, note, raw)
    with ExitStack() as stack:
        for model in first.values():
            stack.enter_context(frozen(model))
        few = x[: 8 * BLOCK]
        taken = times({name: partial(predict, first[name], few) for name in forms}, given.rounds, given.warmup)
    report.timings(f"Inference on {len(few)} images", taken, peers=[baseline], note="All in turn in one process.")


def contenders(given: Namespace) -> dict[str, dict[str, Any]]:
    """The settings of each network by name, the baseline last."""
    windows = {f"T = 1, windows, {name}": {"projection": name} for name in given.projections.split(",")}
    whole = {f"T = {steps}, whole map": {"windows": "none", "steps": steps} for steps in (1, given.steps)}
    return {**windows, **whole}


def learned(
    given: Namespace, settings: dict[str, Any], seed: int, data: Dataset, outcomes: Outcomes
) -> tuple[SpikingNetwork, float]:
    """The trained network of these settings and the processor time that its training took, kept from before if they are there."""
    model = build_onestep(
        given.network, input_shape=data.sample_shape, classes=len(data.classes), channels=given.channels, depth=given.depth,
        seed=seed, **settings,
    )  # fmt: skip
    config = TrainConfig(epochs=given.epochs, batch_size=given.batch, learning_rate=given.rate, seed=seed)

    return outcomes.trained(model, data, config)


def _difference(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[str, str]:
    """The difference of accuracies with its interval, and whether it lies above minus one point."""
    if right is other:
        return "", ""
    each = (right.astype(float) - other).mean(0)
    value, half = each.mean(), 1.96 * each.std(ddof=1) / len(each) ** 0.5
    told = "yes" if value - half >= -POINT else "no" if value + half < -POINT else "open"
    return f"{100 * value:+.2f} ({100 * (value - half):+.2f} to {100 * (value + half):+.2f})", told


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="onestep", help="onestep or onestep-rnn (default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.125, help="factor on its channels (default %(default)s)")
    parser.add_argument("--depth", type=int, default=1, help="cells in a stage (default %(default)s)")
    parser.add_argument("--projections", default="coded", help="with commas (default %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of the baseline (default %(default)s)")
    parser.add_argument("--train", type=int, default=3000, help="training images (default %(default)s)")
    parser.add_argument("--test", type=int, default=2000, help="test images (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="of training (default %(default)s)")
    parser.add_argument("--rate", type=float, default=4e-3, help="learning rate at the start (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/bench/outcomes"), help="(default %(default)s)")


if __name__ == "__main__":
    main()
