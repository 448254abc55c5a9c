"""The trained networks that the benchmarks run: `vgg9` on CIFAR-10, or `conv` on MNIST. Trains what is not there.

    python benchmarks/model.py
    python benchmarks/model.py --data mnist

Training goes through the command line, so a killed one goes on where it was. Prints accuracy and firing rates.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from harness import begin, images, options
from report import Report
from torch import nn

from trustsnn.blocks import frozen, observe
from trustsnn.statistics import proportion
from trustsnn.training import TrainConfig


class Recipe(NamedTuple):
    """Where a network lies, which one it is, and how it is trained."""

    folder: Path
    network: str
    config: TrainConfig

    def words(self, data: str) -> list[str]:
        """The options of `trustsnn train bptt` beside the epochs."""
        config = self.config
        words = f"--model {self.network} --data {data} --augment {config.augmentation} --batch-size {config.batch_size}"
        return shlex.split(words)


RECIPES = {
    "cifar10": Recipe(Path("models/bench-vgg9"), "vgg9", TrainConfig(epochs=5, batch_size=64, augmentation="shift-flip")),
    "mnist": Recipe(Path("models/bench-conv"), "conv", TrainConfig(epochs=2)),
}


def model_option(parser: argparse.ArgumentParser, data: str = "cifar10") -> None:
    """Add --model FOLDER to the options of a benchmark."""
    help_ = "a trustsnn checkpoint folder; see benchmarks/model.py (default %(default)s)"
    parser.add_argument("--model", type=Path, default=RECIPES[data].folder, help=help_)


def trained(folder: Path, steps: int | None = None) -> nn.Module:
    """The model of a checkpoint folder in eval mode, unrolled over `steps` instead of its own number if given."""
    import trustsnn
    from trustsnn.errors import TrustSNNError
    from trustsnn.models import rebuild

    try:
        model = trustsnn.load(folder)
    except TrustSNNError as error:
        raise SystemExit(f"{error}\nThe benchmarks' own model comes from: python benchmarks/model.py") from error
    if steps is None or steps == model.spec.steps:
        return model
    architecture = model.architecture
    other = rebuild({**architecture, "arguments": {**architecture["arguments"], "steps": steps}})
    other.load_state_dict(model.state_dict())
    return other.eval()


def known_epochs(folder: Path) -> int | None:
    """How long the network of a checkpoint was trained, as far as it says."""
    path = folder / "config.json"
    return (json.loads(path.read_text())["training"] or {}).get("epochs") if path.is_file() else None


def main() -> None:
    """Train if need be; then print one line on accuracy and a table of firing rates."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", choices=list(RECIPES), default="cifar10", help="and with it the network")
    parser.add_argument("--model", type=Path, help="take this checkpoint folder instead of training one")
    parser.add_argument("--epochs", type=int, help="of training, where there is no network yet")
    parser.add_argument("--samples", type=int, default=1000, help="test images for accuracy and rates (default %(default)s)")
    given = begin(parser)
    recipe = RECIPES[given.data]
    folder = given.model or recipe.folder
    there = given.model is not None or (folder / "manifest.json").is_file()
    epochs = known_epochs(folder) if there else given.epochs or recipe.config.epochs
    words = ["train", "bptt", *recipe.words(given.data), "--epochs", str(epochs), "--out", str(folder)]
    if not there:
        print("trustsnn", shlex.join(words), flush=True)
        subprocess.run([sys.executable, "-m", "trustsnn", *words, "--threads", str(given.threads)], check=True)
    model = trained(folder)
    x, y = images(given.data, "test", given.samples)
    with frozen(model):
        seen = observe(model, x)
    figure = proportion(int((seen.logits.argmax(1) == y).sum()), len(y))
    rates = {name: fired / places for name, (fired, places) in seen.spikes.items()}
    how = "" if given.model else f" Trained by `trustsnn {shlex.join(words)}`."
    note = (
        f"{figure['successes']} of {figure['count']} test images correct "
        f"({figure['value']:.1%}; 95 % interval {figure['low']:.1%} to {figure['high']:.1%}).{how}"
    )
    report = Report(f"The network: {model.architecture['name']} on {given.data}, T = {model.spec.steps}", given)
    inputs = {"input": float(torch.count_nonzero(x)) / x.numel(), **rates}
    report.table("Firing rates", ["layer", "active"], [[name, f"{rate:.1%}"] for name, rate in inputs.items()], note, inputs)


if __name__ == "__main__":
    main()
