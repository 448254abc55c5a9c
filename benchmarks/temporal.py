"""Temporal coding on real images: S4NN, a network of alpha synapses, and STDP without labels, each on the whole test set.

    python benchmarks/temporal.py --threads 1
    python benchmarks/temporal.py --threads 1 --seeds 0 --epochs 12 --alpha-train 0 --winner-train 0

Seconds are of the CPU, over all threads. Trained networks of a state are kept under --keep, so that a killed run goes on; the seconds
then are those since.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import begin, options
from report import Report, share

from trustsnn.blocks import frozen
from trustsnn.data import Dataset, load
from trustsnn.statistics import Figure, proportion
from trustsnn.temporal import S4NN, AlphaNetwork, S4NNConfig, WinnerConfig, train_s4nn, train_winner
from trustsnn.training import TrainConfig, accuracy, train


def main() -> None:
    """A table of test accuracies, one row a method and seed, and one of how the S4NNs spike."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    sets = {split: load(given.data, split) for split in ("train", "test")}
    report = Report(f"Temporal coding on {given.data}: {len(sets['test'])} test images", given)
    rows: list[list[str]] = []
    raw: list[dict[str, Any]] = []
    spiking = []
    for seed in given.seeds:
        network, seconds = trained_s4nn(given, sets["train"], seed)
        spiking.append([str(seed), *_spiking(network, sets["test"])])
        _add(
            rows,
            raw,
            f"S4NN, {given.epochs} epochs, rate {given.rate:g}",
            seed,
            sets["train"],
            seconds,
            accuracy(network, sets["test"]),
        )
    if given.alpha_train:
        some = sets["train"].take(given.alpha_train)
        network, seconds = trained_alpha(given, some)
        _add(rows, raw, f"alpha synapses, {given.alpha_epochs} epochs", 0, some, seconds, accuracy(network, sets["test"]))
    if given.winner_train:
        some = sets["train"].take(given.winner_train)
        begun = time.process_time()
        layer = train_winner(some, WinnerConfig(neurons=given.winner_neurons))
        seconds = time.process_time() - begun
        _add(rows, raw, f"STDP, {given.winner_neurons} neurons, no labels", 0, some, seconds, layer.accuracy(sets["test"]))
    report.table(
        "Test accuracy", ["method", "seed", "training images", "CPU seconds", "correct"], rows, "95 % intervals: Wilson.", raw
    )  # fmt: skip
    if spiking:
        columns = ["seed", "decided after", "in one step with another", "without a spike", "hidden spikes", "correct or tied"]
        note = (
            "Decided after: steps until the first output spike, mean over the images that have one. Hidden spikes: share of the hidden "
            "neurons that spike. Correct or tied: the count of the authors' code, where the true class may be one of several that "
            "spike first."
        )
        report.table("S4NN: when and how it decides", columns, spiking, note)


def trained_s4nn(given: Namespace, data: Dataset, seed: int) -> tuple[S4NN, float]:
    """The network of these settings after its last epoch, and the seconds that it took from here."""
    network = S4NN(data.sample_shape, len(data.classes), seed=seed)
    config = S4NNConfig(epochs=given.epochs, learning_rate=given.rate, seed=seed)
    folder = given.keep / f"s4nn-{given.data}-{given.epochs}-{given.rate:g}-{seed}"
    begun = time.process_time()
    train_s4nn(network, data, config, folder=folder)
    return network, time.process_time() - begun


def trained_alpha(given: Namespace, data: Dataset) -> tuple[AlphaNetwork, float]:
    """The same for the network of alpha synapses."""
    network = AlphaNetwork(data.sample_shape, len(data.classes))
    config = TrainConfig(epochs=given.alpha_epochs, batch_size=32, learning_rate=given.alpha_rate, weight_decay=0.0)
    begun = time.process_time()
    train(network, data, config, folder=given.keep / f"alpha-{given.data}-{len(data)}-{given.alpha_epochs}-{given.alpha_rate:g}")
    return network, time.process_time() - begun


def _add(
    rows: list[list[str]], raw: list[dict[str, Any]], method: str, seed: int, data: Dataset, seconds: float, found: Figure
) -> None:
    rows.append([method, str(seed), f"{len(data):,}", f"{seconds:.0f}", share(found, 2, counted=True)])
    raw.append({"method": method, "seed": seed, "images": len(data), "seconds": seconds, **found})
    print(*rows[-1], sep=" | ", flush=True)


def _spiking(network: S4NN, data: Dataset) -> list[str]:
    blocks = [np.arange(start, min(start + 256, len(data))) for start in range(0, len(data), 256)]
    hidden, first, together, tied = [], [], [], []
    with frozen(network), torch.no_grad():
        for block in blocks:
            x, y = (torch.from_numpy(part) for part in data.batch(block))
            spikes, output, _ = network.spikes(x)
            earliest = output.amin(1)
            hidden.append((spikes < network.last).float().mean(1))
            first.append(earliest)
            together.append((output == earliest[:, None]).sum(1) > 1)
            spiked = earliest < network.last
            tied.append(torch.where(spiked, output.gather(1, y[:, None])[:, 0] == earliest, network(x).argmax(1) == y))
    when, several = torch.cat(first), torch.cat(together)
    spiked = when < network.last
    figures = [several & spiked, ~spiked, torch.cat(tied)]
    shares = [share(proportion(int(figure.sum()), len(data)), 2, counted=True) for figure in figures]
    return [f"{when[spiked].mean():.0f} of {network.last}", *shares[:2], f"{torch.cat(hidden).mean():.1%}", shares[2]]


def _arguments(parser: ArgumentParser) -> None:
    def whole(text: str) -> list[int]:
        return [int(each) for each in text.split(",") if each]

    parser.add_argument("--data", default="mnist", help="(default %(default)s)")
    parser.add_argument("--seeds", type=whole, default=[0, 1, 2], help="of the S4NNs, with commas (default 0,1,2)")
    parser.add_argument("--epochs", type=int, default=S4NNConfig.epochs, help="of S4NN (default %(default)s)")
    parser.add_argument("--rate", type=float, default=S4NNConfig.learning_rate, help="of S4NN (default %(default)s)")
    parser.add_argument(
        "--alpha-train", type=int, default=10000, help="images for alpha synapses, 0 for none (default %(default)s)"
    )
    parser.add_argument("--alpha-epochs", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--alpha-rate", type=float, default=3e-3, help="(default %(default)s)")
    parser.add_argument("--winner-train", type=int, default=10000, help="images for STDP, 0 for none (default %(default)s)")
    parser.add_argument("--winner-neurons", type=int, default=100, help="(default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("models/temporal"), help="(default %(default)s)")


if __name__ == "__main__":
    main()
