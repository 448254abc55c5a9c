"""What the conversion of a plain ReLU network loses, and how much of it calibration brings back.

    python benchmarks/calibration.py
    python benchmarks/calibration.py --data cifar10 --network vgg9 --epochs 10 --augment shift-flip

One network a seed, converted by every method for several T with the same calibration samples of the training split; plain conversion
is "balance" with the largest activation (Diehl 2015). The share that a method brings back is that of the test images that plain
conversion loses. What was computed is kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import begin, options
from numpy.typing import NDArray
from outcomes import Arrays, Outcomes
from report import Report, share

from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import model_hash
from trustsnn.conversion import Calibration, compare, convert
from trustsnn.data import Dataset, load
from trustsnn.models import SpikingNetwork, build
from trustsnn.rng import stream
from trustsnn.statistics import proportion
from trustsnn.training import TrainConfig

Right = NDArray[np.bool_]
PLAIN = "balance"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("balance", {}),
    "balance, percentile 99.9": ("balance", {"percentile": 99.9}),
    "balance, V0 = V/2": ("balance", {"initial": 0.5}),
    "calibrate": ("calibrate", {}),
    "calibrate, V0 = V/2 to begin with": ("calibrate", {"initial": 0.5}),
    "calibrate-advanced": ("calibrate-advanced", {}),
}


def main() -> None:
    """A table of whole networks; for --layers-at steps, one of where error enters."""
    parser = options(__doc__.splitlines()[0])
    network_options(parser, Path("runs/conversion/calibration"))
    parser.add_argument("--steps", type=whole, default=[4, 8, 16, 32], help="with commas (default 4,8,16,32)")
    parser.add_argument("--layers-at", type=int, default=8, help="T of the table of layers (default %(default)s)")
    parser.add_argument("--layers-on", type=int, default=500, help="its test images (default %(default)s)")
    given = begin(parser)
    data, test, samples = sets(given)
    outcomes = Outcomes(given.keep)
    report = Report(f"Calibration: {described(given, data, test)}, {len(samples)} of them calibrate", given)
    rows, layers, raw = [], [], []
    for seed in given.seeds:
        ann, _ = network(given, data, seed, outcomes)
        reference = right(ann, test, outcomes)
        rows.append([str(seed), "ANN", "1", counted(reference), "", "", ""])
        for steps in given.steps:
            plain = None
            for name, (method, settings) in METHODS.items():
                calibration = Calibration(samples, iterations=given.iterations, seed=seed, **settings)
                found = converted(ann, method, steps, calibration, test, given.layers_on, outcomes)
                plain = found["right"] if plain is None else plain
                back, low, high = brought_back(reference, plain, found["right"])
                shown = f"{back:.0%} ({low:.0%} to {high:.0%})" if name != PLAIN else ""
                loss = f"{100 * (reference.mean() - found['right'].mean()):.2f}"
                rows.append([str(seed), name, str(steps), counted(found["right"]), loss, shown, f"{float(found['cpu']):.0f}"])
                raw.append(
                    {"seed": seed, "name": name, "steps": steps, "right": int(found["right"].sum()), "back": [back, low, high]}
                )
                if steps == given.layers_at:
                    layers += [[str(seed), name, *each] for each in layer_rows(found)]
    columns = ["seed", "network", "T", "correct", "lost, points", "brought back of what plain loses", "conversion, s"]
    note = "Wilson's interval; for what is brought back the bootstrap's over the test images. Seconds of one thread's processor time."
    report.table("Accuracy", columns, rows, note, raw)
    note = (
        f"The first {given.layers_on} test images by hash. Mean absolute error of an activation in units of V: in the network; of the layer "
        "alone, given the ANN's activations before it; the least that T steps allow. The last column: spike counts that are not the nearest."
    )
    columns = ["seed", "network", "layer", "V", "error", "alone", "floor", "not nearest"]
    report.table(f"Where error enters, T = {given.layers_at}", columns, layers, note)


def network(
    given: Namespace, data: Dataset, seed: int, outcomes: Outcomes, neuron: str = "relu", **arguments: Any
) -> tuple[SpikingNetwork, float]:
    """The trained ANN of a seed, and the processor time of its training, in seconds."""
    model = build(
        given.network, input_shape=data.sample_shape, classes=len(data.classes), channels=given.channels, neuron=neuron,
        seed=seed, **arguments,
    )  # fmt: skip
    return outcomes.trained(model, data, recipe(given, given.epochs, seed))


def recipe(given: Namespace, epochs: int, seed: int, learning_rate: float = 2e-3) -> TrainConfig:
    """The training that every network of a table gets, but for its length and its rate."""
    return TrainConfig(epochs=epochs, batch_size=given.batch, learning_rate=learning_rate, augmentation=given.augment, seed=seed)


def right(model: SpikingNetwork, test: Dataset, outcomes: Outcomes) -> Right:
    """Which test images the model puts into their class."""
    return outcomes.get({"right": model_hash(model), "test": test.samples_sha256}, lambda: {"right": _right(model, test)})[
        "right"
    ]


def _right(model: SpikingNetwork, test: Dataset) -> Right:
    parts = []
    with frozen(model):
        for start in range(0, len(test), 256):
            x, y = test.batch(range(start, min(start + 256, len(test))))
            parts.append(predict(model, torch.from_numpy(x)).argmax(1).numpy() == y)
    return np.concatenate(parts)


def converted(
    ann: SpikingNetwork, method: str, steps: int, calibration: Calibration, test: Dataset, compared: int, outcomes: Outcomes
) -> Arrays:
    """Who is right after a conversion, what it took, and each layer of a `Comparison` with `compared` test images."""
    settings = {name: value for name, value in vars(calibration).items() if name != "samples"}
    decides = {
        "ann": model_hash(ann), "method": method, "steps": steps, "calibration": settings, "compared": compared,
        "samples": calibration.samples.samples_sha256, "test": test.samples_sha256, "threads": torch.get_num_threads(),
    }  # fmt: skip

    def compute() -> Arrays:
        begun = time.process_time()
        spiking = convert(ann, method, steps=steps, calibration=calibration)
        cpu = time.process_time() - begun
        print(f"{method} {settings}, T = {steps}: {cpu:.0f} s", flush=True)
        layers = compare(ann, spiking, test.take(compared)).layers
        table = [[each.threshold, each.error, each.own_error, each.floor] for each in layers]
        counts = [[each.mismatches["successes"], each.mismatches["count"]] for each in layers]
        names = np.array([each.name for each in layers])
        return {
            "right": _right(spiking, test),
            "cpu": np.array(cpu),
            "layers": np.array(table),
            "counts": np.array(counts),
            "names": names,
        }

    return outcomes.get(decides, compute)


def layer_rows(found: Arrays) -> list[list[str]]:
    """The layers of what `converted` gives, errors in units of V."""
    return [
        [str(name), f"{bound:.3g}", *(f"{error / bound:.2g}" for error in errors), counted(int(wrong), int(count))]
        for name, (bound, *errors), (wrong, count) in zip(found["names"], found["layers"], found["counts"], strict=True)
    ]


def brought_back(reference: Right, plain: Right, other: Right) -> tuple[float, float, float]:
    """(other - plain) / (reference - plain) in correct images, with the 95 % interval of a bootstrap over the images."""
    count = len(reference)
    weights = stream(0, "calibration/bootstrap").multinomial(count, np.full(count, 1 / count), size=1000)
    gained, lost = (other.astype(int) - plain), (reference.astype(int) - plain)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = gained.sum() / lost.sum()
        low, high = np.nanpercentile((weights @ gained) / (weights @ lost), [2.5, 97.5])
    return float(value), float(low), float(high)


def counted(found: Right | int, count: int | None = None) -> str:
    """A proportion in per cent with its 95 % interval and count."""
    whole = len(found) if count is None else count  # type: ignore[arg-type]
    return share(proportion(int(np.sum(found)), whole), 2, counted=True)


def sets(given: Namespace) -> tuple[Dataset, Dataset, Dataset]:
    """Training and test images, and those of the training images that calibrate."""
    whole_sets = {split: load(given.data, split) for split in ("train", "test")}
    data, test = (whole_sets[split].take(getattr(given, split) or len(whole_sets[split])) for split in ("train", "test"))
    return data, test, data.take(given.calibration)


def described(given: Namespace, data: Dataset, test: Dataset) -> str:
    """The network and its data in words."""
    return (
        f"{given.network} ({given.channels:g} of its channels) on {given.data}, {len(data)} training and {len(test)} test images"
    )


def whole(text: str) -> list[int]:
    """The whole numbers in a text with commas."""
    return [int(each) for each in text.split(",")]


def network_options(parser: ArgumentParser, keep: Path) -> None:
    """Add what `sets`, `network` and `recipe` take."""
    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.25, help="factor on the network's channels (default %(default)s)")
    parser.add_argument("--train", type=int, default=10_000, help="training images; 0 for all (default %(default)s)")
    parser.add_argument("--test", type=int, default=0, help="test images; 0 for all (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="of the ANN (default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="of training (default %(default)s)")
    parser.add_argument("--augment", default="none", help="in training (default %(default)s)")
    parser.add_argument("--calibration", type=int, default=1024, help="training images that calibrate (default %(default)s)")
    parser.add_argument("--iterations", type=int, default=500, help="of calibrate-advanced, a layer (default %(default)s)")
    parser.add_argument("--seeds", type=whole, default=[0], help="of the networks, with commas (default 0)")
    parser.add_argument("--keep", type=Path, default=keep, help="(default %(default)s)")


if __name__ == "__main__":
    main()
