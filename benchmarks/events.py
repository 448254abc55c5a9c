"""Attacks on event frames: success against the number of changed events, on the same network and samples.

    python benchmarks/events.py
    python benchmarks/events.py --model models/mine

`conv` on binary event frames of MNIST (`events:mnist`), trained on a part of them unless --model names a checkpoint. Each attack
meets test samples that the network gets right, behind a filter those that it gets right there. What was computed is kept under
--keep, so that a killed run goes on.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import begin, options
from inherent import numbers, recipe, training_options
from model import trained
from outcomes import Arrays, Outcomes
from report import Report, share_of
from torch import Tensor, nn

from trustsnn.attacks.events import (
    SDA,
    CornerAttack,
    DashAttack,
    Deletion,
    EventAttack,
    FilterAwareDash,
    Filtered,
    FrameAttack,
    Insertion,
    Retiming,
    SpikeFool,
    UniversalPatch,
    background_activity,
    mask,
    success_curve,
)
from trustsnn.attacks.events.changes import count_changes
from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, load
from trustsnn.models import build


class Target(NamedTuple):
    """A network, alone or behind a filter, with samples that it gets right, and how many of how many it got right."""

    name: str
    model: nn.Module
    decides: dict[str, Any]
    samples: Dataset
    right: int
    tried: int


def filters(given: Namespace) -> dict[str, Callable[[Tensor], Tensor] | None]:
    """What stands before the network, by name."""
    return {
        "no filter": None,
        f"BAF, radius 1, {given.baf} step back": partial(background_activity, radius=1, steps=given.baf),
        f"mask above {given.mask} events": partial(mask, most=given.mask),
    }


def target(name: str, network: nn.Module, filter_: Callable[[Tensor], Tensor] | None, test: Dataset, count: int) -> Target:
    """The network behind a filter or none, with the first `count` samples of `test` that it gets right."""
    model = network if filter_ is None else Filtered(network, filter_)
    x, y = (torch.from_numpy(values) for values in test.batch(range(len(test))))
    with frozen(model):
        right = (predict(model, x).argmax(1) == y).nonzero().squeeze(1).numpy()
    samples = test.select(right[:count])
    decides = {
        "model": model_hash(network), "filter": name, "samples": samples.samples_sha256, "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Target(name, model, decides, samples, len(right), len(test))


def single_sample(given: Namespace) -> dict[str, EventAttack]:
    """The attacks on one sample at a time, by name."""
    return {
        "SDA": SDA(),
        "SpikeFool": SpikeFool(),
        "insertion": Insertion(),
        "deletion": Deletion(),
        "retiming": Retiming(),
        f"retiming, B0 {given.moves}": Retiming(budget=given.moves),
        f"retiming, B1 {given.moves}": Retiming(total=given.moves),
        "retiming, B-inf 1": Retiming(furthest=1),
        "frame, up to 3 pixels": FrameAttack(thickness=3),
        "corner, up to 3 rows": CornerAttack(depth=3),
        **dashes(given),
    }


def dashes(given: Namespace) -> dict[str, EventAttack]:
    """The attacks that also meet the filters."""
    return {"dash": DashAttack(), f"filter-aware dash, {given.mask} events a pixel": FilterAwareDash(most=given.mask)}


def attacked(attack: EventAttack, on: Target, outcomes: Outcomes) -> Arrays:
    """fooled, changes and queries [N] of an attack on the samples of a target, and the "seconds" of all of them."""

    def compute() -> Arrays:
        x, y = (torch.from_numpy(values) for values in on.samples.batch(range(len(on.samples))))
        result = attack.run(on.model, x, y, on.samples.ids)
        return {name: getattr(result, name).numpy() for name in ("fooled", "changes", "queries")}

    return outcomes.get({**on.decides, "threat": attack.describe(), "seed": attack.seed}, compute)


def patched(attack: UniversalPatch, on: Target, train: Dataset, outcomes: Outcomes) -> Arrays:
    """The same for one patch that is fitted on `train`; its queries are none, for it does not look at the sample."""

    def compute() -> Arrays:
        x, y = (torch.from_numpy(values) for values in train.batch(range(len(train))))
        patch = attack.fit(on.model, x, y, train.ids)
        x, y = (torch.from_numpy(values) for values in on.samples.batch(range(len(on.samples))))
        with frozen(on.model):
            fooled = predict(on.model, patch(x)).argmax(1) != y
        return {
            "fooled": fooled.numpy(), "changes": count_changes(x, patch(x)).numpy(), "queries": np.zeros(len(x), dtype=np.int64),
            "fitted": np.array(patch.success),
        }  # fmt: skip

    return outcomes.get({**on.decides, "threat": attack.describe(), "seed": attack.seed, "fit": train.samples_sha256}, compute)


def row(name: str, on: Target, found: Arrays, budgets: list[int]) -> list[str]:
    """Success within each budget and within any, the median changes of the broken, mean queries, and seconds a sample."""
    count = len(found["fooled"])
    _, rates = success_curve(found["fooled"], found["changes"], np.array(budgets))
    within = [share_of(round(rate * count), count) for rate in rates]
    broken = found["changes"][found["fooled"]]
    median = f"{np.median(broken):g}" if len(broken) else "none broken"
    return [
        name, on.name, *within, share_of(len(broken), count), median, f"{found['queries'].mean():,.0f}",
        f"{float(found['seconds']) / count:.2f}",
    ]  # fmt: skip


def main() -> None:
    """A table of the networks and one of the attacks."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    outcomes = Outcomes(given.keep)
    data = load("events:mnist", "train")
    test = load("events:mnist", "test").take(given.pool)
    if given.model is not None:
        network = trained(given.model)
        how = f"The network of {given.model}."
    else:
        fresh = build(
            "conv",
            input_shape=data.sample_shape,
            classes=10,
            domain=data.domain,
            steps=data.sample_shape[0],
            channels=given.channels,
        )
        network, seconds = outcomes.trained(fresh, data.take(given.train), recipe(given))
        how = f"conv with {given.channels:g} of its channels, trained on {given.train:,} samples for {given.epochs} epochs in {seconds:.0f} s."
    report = Report(f"Attacks on event frames: conv on events:mnist, T {data.sample_shape[0]}", given)
    targets = [target(name, network, filter_, test, given.samples) for name, filter_ in filters(given).items()]
    events = test.batch(range(len(test)))[0].sum((1, 2, 3, 4))
    report.table(
        "Networks", ["network", "right without an attack"], [[on.name, share_of(on.right, on.tried)] for on in targets],
        f"{how} Of {len(test)} test samples, with {np.median(events):,.0f} events of {test.batch([0])[0].size:,} places in the median; 95 % "
        "Wilson intervals.",
    )  # fmt: skip
    side = data.sample_shape[-1]
    middle = (side - given.patch) // 2
    budgets = numbers(given.budgets)
    rows, raw = [], {}
    for on in targets:
        for name, attack in (single_sample(given) if on is targets[0] else dashes(given)).items():
            found = attacked(attack, on, outcomes)
            rows.append(row(name, on, found, budgets))
            raw[f"{name}; {on.name}"] = {key: found[key].tolist() for key in ("fooled", "changes", "queries")}
            print(f"  {rows[-1]}", file=sys.stderr)
    fit = data.take(given.fit, 1)
    for place, corner in (("corner", 0), ("middle", middle)):
        found = patched(
            UniversalPatch(height=given.patch, width=given.patch, row=corner, column=corner), targets[0], fit, outcomes
        )
        name = f"universal patch, {given.patch} x {given.patch} in the {place}"
        rows.append(row(name, targets[0], found, budgets))
        raw[name] = {key: found[key].tolist() for key in ("fooled", "changes", "fitted")}
    report.table(
        "Success within a number of changed events",
        ["attack", "behind", *(f"within {n:,}" for n in budgets), "any", "changes, median of the broken", "queries", "seconds"], rows,
        f"{len(targets[0].samples)} test samples that the network gets right (behind a filter: that it gets right there); 95 % Wilson "
        "intervals. A change is an event that was inserted, deleted or, in a retiming, moved. Each line is one run read at every "
        "number of changes: within a smaller budget a search for that budget may do better, which the lines with a budget of their own show "
        "(B0: events that move, B1: steps of all together, B-inf: steps of each). Queries are forward passes a sample in the mean, a "
        f"gradient being one of them; seconds are a sample's. A patch is fitted on {given.fit} training samples and does not see the test "
        "sample: its queries are none, its seconds those of the fit.",
        raw,
    )  # fmt: skip


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="a checkpoint on binary event frames, instead of training")
    training_options(parser, channels=0.5)
    parser.add_argument("--samples", type=int, default=100, help="correctly classified test samples (default %(default)s)")
    parser.add_argument("--pool", type=int, default=300, help="test samples to find them in (default %(default)s)")
    parser.add_argument("--budgets", default="1,3,10,30,100,300,1000", help="changed events (default %(default)s)")
    parser.add_argument("--moves", type=int, default=30, help="the budget of the retimings that have one (default %(default)s)")
    parser.add_argument("--mask", type=int, default=8, help="events a pixel that the mask filter lets pass (default %(default)s)")
    parser.add_argument("--baf", type=int, default=1, help="steps back of the background-activity filter (default %(default)s)")
    parser.add_argument("--patch", type=int, default=8, help="side of the patch in pixels (default %(default)s)")
    parser.add_argument("--fit", type=int, default=300, help="training samples for the patch (default %(default)s)")


if __name__ == "__main__":
    main()
