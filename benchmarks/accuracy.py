"""Accuracy after training with each set of kernels, over several seeds: the fast paths are to train what the plain one trains.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --data cifar10 --network vgg9 --epochs 2 --kernels native,torch

What was computed is kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from harness import begin, kernels, options
from outcomes import Arrays, Outcomes
from report import Report

from trustsnn.data import load
from trustsnn.kernels import convolution, using
from trustsnn.models import build
from trustsnn.statistics import proportion
from trustsnn.training import TrainConfig, accuracy, train


def main() -> None:
    """Train one model a seed and kernel; one row a kernel with the test accuracy of each seed and of all together."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="a data set (default %(default)s)")
    parser.add_argument("--network", default="conv", help="a bundled network (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="(default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--kernels", default="native,numba,torch", help="trustsnn's (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/bench/outcomes"), help="(default %(default)s)")
    given = begin(parser)
    contenders = [(name, name, False) for name in kernels(given.kernels)]
    if ("native", "native", False) in contenders and convolution.has_half():
        contenders.insert(1, ("native, bf16 input gradient", "native", True))
    data, test = load(given.data, "train"), load(given.data, "test")
    outcomes = Outcomes(given.keep)
    setting = [given.data, given.network, given.epochs, given.batch, given.threads]

    def trained(kernel: str, half: bool, seed: int) -> Arrays:
        model = build(given.network, input_shape=data.sample_shape, classes=len(data.classes), domain=data.domain, seed=seed)
        model.half_gradients = half
        with using(kernel):
            train(model, data, TrainConfig(epochs=given.epochs, batch_size=given.batch, seed=seed))
        with using("torch"):
            return {"accuracy": np.array(accuracy(model, test)["value"])}

    rows = []
    for name, kernel, half in contenders:
        figures = []
        for seed in range(given.seeds):
            decides = {"accuracy": setting, "data": [data.sha256, test.sha256], "kernel": kernel, "half": half, "seed": seed}
            found = outcomes.get(decides, lambda kernel=kernel, half=half, seed=seed: trained(kernel, half, seed))
            figures.append(float(found["accuracy"]))
            print(f"  {name}, seed {seed}: {figures[-1]:.2%}, {float(found['seconds']):.0f} s", flush=True)
        total = proportion(round(sum(figures) * len(test)), given.seeds * len(test))
        each = ", ".join(f"{value:.2%}" for value in figures)
        rows.append([name, each, f"{total['value']:.2%} ({total['low']:.2%} to {total['high']:.2%})"])
    heading = f"{given.network} on {given.data}, {given.epochs} epochs"
    columns = ["kernels", "each seed", "all seeds (95 % interval)"]
    Report("Accuracy after training", given).table(heading, columns, rows, "All are judged on the plain kernels.")


if __name__ == "__main__":
    main()
