"""How long the shadow models of a membership attack take to train, in one process and in several.

python benchmarks/shadows.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from harness import begin, options
from report import Report

from trustsnn.data import load
from trustsnn.models import build
from trustsnn.runners.shadows import Recipe, halves, train_all
from trustsnn.training import TrainConfig


def main() -> None:
    """A row for each number of processes."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="(default %(default)s)")
    parser.add_argument("--network", default="conv", help="(default %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="factor on its channels (default %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="time steps T (default %(default)s)")
    parser.add_argument("--shadows", type=int, default=20, help="(default %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="(default %(default)s)")
    parser.add_argument("--workers", default="1,2", help="processes, with commas; 0 is this one (default %(default)s)")
    given = begin(parser)
    pool = load(given.data, "train")
    model = build(
        given.network,
        input_shape=pool.sample_shape,
        classes=len(pool.classes),
        channels=given.channels,
        steps=given.steps,
    )
    recipe = Recipe(model.architecture, TrainConfig(epochs=given.epochs, batch_size=64))
    inside = halves(pool.ids, given.shadows, 0)
    rows, raw = [], {}
    for workers in given.workers.split(","):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            trained = train_all(recipe, pool, inside, Path(folder), workers=int(workers))
            seconds = time.perf_counter() - begun
        accuracies = [each.epochs[-1]["train_accuracy"] for each in trained]
        spread = f"{min(accuracies):.1%} to {max(accuracies):.1%}"
        rows.append([workers, f"{seconds:.1f} s", f"{seconds / len(trained):.2f} s", spread])
        raw[workers] = seconds
    report = Report(f"Shadow models: {given.network} on {given.data}", given)
    report.table(
        f"{given.shadows} shadow models, {given.epochs} epochs", ["processes", "all of them", "one", "training accuracy of the last epoch"], rows,
        f"Wall-clock time with the start of the processes, one thread each. Every model learns from a half of {len(pool)} samples.", {"seconds": raw},
    )  # fmt: skip


if __name__ == "__main__":
    main()
