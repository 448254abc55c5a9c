"""Private conversion: the accuracy that it loses against conversion with real data, and what each stage leaks of the classes.

    python benchmarks/private.py
    python benchmarks/private.py --data cifar10 --network vgg9 --judge ms-resnet-small --iterations 2500 --augment shift-flip

One ReLU network; the same conversion with images made from it alone and with as many real ones; both again after training through time,
which the paper calls temporal encryption and which is obfuscation. Every stage is attacked by class representations through a ReLU
network with its weights and through its spikes, and an independent classifier says what they show. What was computed is kept under
--keep, so that a killed run goes on; the pages with the pictures are there as well.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from calibration import counted, whole
from harness import begin, options
from outcomes import Outcomes
from report import Report

import trustsnn
from trustsnn.attacks.leakage import ClassRepresentation
from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import load_network, model_hash
from trustsnn.data import Dataset, load
from trustsnn.defenses.private import Distillation, Synthesis, spiking_start, synthesise
from trustsnn.models import SpikingNetwork, build
from trustsnn.reports.compare import paired
from trustsnn.rng import Draws
from trustsnn.runners.leakage import class_leakage
from trustsnn.training import TrainConfig, train

ANN, REAL, SYNTHETIC, REAL_TRAINED, TRAINED = (
    "ANN", "converted with real data", "converted with synthetic data", "then trained through time on real data",
    "then trained through time on synthetic data",
)  # fmt: skip


def main() -> None:
    """A table of accuracies and one of leakage for each number of steps."""
    parser = options(__doc__.splitlines()[0])
    arguments(parser)
    given = begin(parser)
    test, data = (load(given.data, split) for split in ("test", "train"))
    test = test.take(given.test or len(test))
    data = data.take(given.train or len(data))
    report = Report(f"Private conversion: {given.network} on {given.data}, {len(test)} test images", given)
    kept = Outcomes(given.keep / "outcomes")
    begun = time.perf_counter()
    ann = _network(given, data, given.network, 0)
    judge = _network(given, data, given.judge, 1)
    _said("trained the ANN and the judge", begun)
    how = Synthesis(samples=given.samples, iterations=given.iterations, learning_rate=given.pixel_rate)
    made = synthesise(
        ann, how, given.keep / f"synthetic-{model_hash(ann)[:12]}-{how.samples}-{how.iterations}-{how.learning_rate:g}",
        on_part=lambda done, total: _said(f"{done} of {total} synthetic images", begun),
    )  # fmt: skip
    for steps in given.steps:
        stages = _stages(given, ann, data, made, steps)
        right = {name: _right(kept, network, test) for name, network in stages.items()}
        _accuracies(report, steps, right)
        _said(f"accuracies at T = {steps}", begun)
        attacks = [ClassRepresentation(through=through, iterations=given.ascent) for through in ("ann", "snn")]
        folder = given.keep / f"leakage-{given.data}-{given.network}-T{steps}"
        record = class_leakage(stages, judge, test, folder, attacks, images=given.images, told=lambda line: _said(line, begun))
        _leakage(report, steps, record, folder)


def _stages(given: Namespace, ann: SpikingNetwork, data: Dataset, made: Dataset, steps: int) -> dict[str, SpikingNetwork]:
    """The network after each stage; as many real images as synthetic ones, in the same training."""
    real = data.take(len(made))
    starts = {name: lambda images=images: spiking_start(ann, images.take(1024), steps, scale=given.scale)  # type: ignore[misc]
              for name, images in ((REAL, real), (SYNTHETIC, made))}  # fmt: skip
    found = {ANN: ann, **{name: start() for name, start in starts.items()}}
    config = TrainConfig(epochs=given.epochs, learning_rate=1e-3, batch_size=given.batch)
    for name, before, images in ((REAL_TRAINED, REAL, real), (TRAINED, SYNTHETIC, made)):
        folder = (
            given.keep / f"trained-{model_hash(found[before])[:12]}-{images.samples_sha256[:12]}-{given.epochs}-{given.batch}"
        )
        found[name] = _kept(folder, starts[before], lambda network, images=images, folder=folder: train(  # type: ignore[misc]
            network, images, config, recipe=Distillation(ann), folder=folder / "training"))  # fmt: skip
    return found


def _network(given: Namespace, data: Dataset, name: str, seed: int) -> SpikingNetwork:
    """A ReLU network on real data."""
    folder = given.keep / f"{name}-{given.data}-{len(data)}-{given.channels:g}-{given.ann_epochs}-{seed}"
    config = TrainConfig(epochs=given.ann_epochs, batch_size=64, augmentation=given.augment, seed=seed)
    return _kept(
        folder,
        lambda: build(
            name, input_shape=data.sample_shape, classes=len(data.classes), channels=given.channels, neuron="relu", seed=seed
        ),
        lambda network: train(network, data, config, folder=folder / "training"),
    )


def _kept(folder: Path, make: Callable[[], SpikingNetwork], work: Callable[[SpikingNetwork], object]) -> SpikingNetwork:
    if not (folder / "manifest.json").is_file():
        network = make()
        work(network)
        trustsnn.save(network, folder)
    return load_network(folder)


def _right(kept: Outcomes, network: SpikingNetwork, test: Dataset) -> pd.Series:
    def compute() -> dict[str, np.ndarray]:
        found = []
        with frozen(network):
            for start in range(0, len(test), 256):
                rows = np.arange(start, min(start + 256, len(test)))
                x, y = test.batch(rows)
                draws = Draws(0, "predict", tuple(test.ids[i] for i in rows))
                found.append(predict(network, torch.from_numpy(x), draws).argmax(1).numpy() == y)
        return {"right": np.concatenate(found)}

    return pd.Series(kept.get({"model": model_hash(network), "samples": test.samples_sha256}, compute)["right"])


def _accuracies(report: Report, steps: int, right: dict[str, pd.Series]) -> None:
    beside = {SYNTHETIC: REAL, TRAINED: REAL_TRAINED}
    rows, raw = [], {}
    for name, found in right.items():
        raw[name] = {"against the ANN": paired(right[ANN], found)}
        if name in beside:
            raw[name]["against real data"] = paired(right[beside[name]], found)
        differences = [raw[name][way]["difference"] if way in raw[name] and name != ANN else None
                       for way in ("against the ANN", "against real data")]  # fmt: skip
        rows.append([name, counted(found.to_numpy()), *(_points(each) for each in differences)])
    report.table(
        f"Accuracy, T = {steps}", ["network", "correct", "against the ANN", "against the same with real data"], rows,
        "In percentage points, with the 95 % interval of a paired difference on the same images. The paper loses less than 2.", raw,
    )  # fmt: skip


def _leakage(report: Report, steps: int, record: dict, folder: Path) -> None:
    rows = [
        [
            model["name"], "ReLU" if attack["settings"]["through"] == "ann" else "spikes", _figure(attack["top1"]),
            _figure(attack["top3"]), _figure(attack["confidence"]),
            f"{attack['distance']['value']:.2f} ({attack['distance']['low']:.2f} to {attack['distance']['high']:.2f})",
            f"{attack['above_chance']:.2g}", f"{attack['zero_gradient']['successes']} of {attack['zero_gradient']['count']}",
        ]
        for model in record["models"]
        for attack in model["attacks"]
    ]  # fmt: skip
    report.table(
        f"Class leakage, T = {steps}", ["network", "through", "top 1", "top 3", "confidence", "distance", "p", "no gradient"], rows,
        f"{record['images']} images a class; judged by {record['judge']['name']}, which has "
        f"{record['judge']['accuracy']['value']:.2%} of {record['judge']['accuracy']['count']:,} test images right. Distance: 0 as near "
        f"as real images of the class, 1 as far as those of others. Pictures: {folder.name}/leakage.html.",
        record,
    )  # fmt: skip


def _figure(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def _points(difference: dict | None) -> str:
    if difference is None:
        return ""
    return f"{100 * difference['value']:+.2f} ({100 * difference['low']:+.2f} to {100 * difference['high']:+.2f})"


def _said(text: str, begun: float) -> None:
    print(f"{time.perf_counter() - begun:.0f} s: {text}", flush=True)


def arguments(parser: ArgumentParser) -> None:
    """Those of the networks, the images and the attacks."""
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--judge", default="vgg9", help="another architecture, with another seed (default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="factor on the channels of both (default %(default)s)")
    parser.add_argument("--train", type=int, default=0, help="training images; 0 for all (default %(default)s)")
    parser.add_argument("--test", type=int, default=0, help="test images; 0 for all (default %(default)s)")
    parser.add_argument("--ann-epochs", type=int, default=3, help="of the ANN and the judge (default %(default)s)")
    parser.add_argument("--augment", default="none", help="in their training (default %(default)s)")
    parser.add_argument("--samples", type=int, default=5000, help="synthetic images (default %(default)s)")
    parser.add_argument("--iterations", type=int, default=1500, help="an image, as published for MNIST (default %(default)s)")
    parser.add_argument("--pixel-rate", type=float, default=1e-3, help="learning rate of pixels (default %(default)s)")
    parser.add_argument("--steps", type=whole, default=[8, 32], help="T, with commas (default 8,32)")
    parser.add_argument("--scale", type=float, default=0.5, help="of the thresholds (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of training through time (default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="of training through time (default %(default)s)")
    parser.add_argument("--images", type=int, default=20, help="a class and attack (default %(default)s)")
    parser.add_argument("--ascent", type=int, default=100, help="iterations of gradient ascent (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/hardening/private"), help="(default %(default)s)")


if __name__ == "__main__":
    main()
