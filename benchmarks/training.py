"""A training step of `vgg9` on CIFAR-10 images with trained weights: its time and its peak memory.

    python benchmarks/training.py

Forward, cross-entropy, backward and a step of SGD, whose learning rate of 0 costs the same and keeps the weights trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from harness import Steps, begin, images, options, peak_memory, times
from model import model_option, trained
from peers import CHECKED, network, networks
from report import Report, mebibytes
from torch import Tensor, nn

from trustsnn.kernels.convolution import has_half
from trustsnn.neurons import SpikingNeuron

# half_gradients, and what the backward pass keeps of the membrane
OURS = {
    "trustsnn": (False, "full"),
    "trustsnn, membrane recomputed": (False, "recompute"),
    "trustsnn, bf16 input gradient": (True, "full"),
    "trustsnn, bf16 input gradient and membrane": (True, "half"),
}


def main() -> None:
    """One table of times and peaks."""
    parser = options(__doc__.splitlines()[0], rounds=15, warmup=3)
    model_option(parser)
    parser.add_argument("--batch", type=int, default=32, help="images (default %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="time steps T (default %(default)s)")
    parser.add_argument("--processes", type=int, default=3, help="fresh ones for the memory, 0 for none (default %(default)s)")
    given = begin(parser)
    x, y = images("cifar10", "train", max(given.batch, CHECKED))
    model = trained(given.model, given.steps)
    peers, agrees = networks(model, x[:CHECKED])
    names = [*peers, *(n for n in OURS if has_half() or not OURS[n][0])]
    if not has_half():
        print("This processor or build does not multiply bfloat16: the bf16 rows are left out.")
    steps = {name: step(contender(name, given.model, given.steps), x[: given.batch], y[: given.batch]) for name in names}
    seconds = times(steps, given.rounds, given.warmup)
    del steps
    peaks: dict[str, list[int | None]] = {name: [] for name in seconds}
    for _ in range(given.processes):
        for name, column in peaks.items():
            column.append(peak_memory(fresh, name, given.model, given.steps, given.batch, threads=given.threads))
    Report("A training step", given).timings(
        f"vgg9, CIFAR-10, B {given.batch}, T {given.steps}",
        seconds,
        peers=list(peers),
        extra={
            "peak memory of the step": {name: mebibytes(column) for name, column in peaks.items()},
            f"against trustsnn in eval mode, {CHECKED} images": agrees,
        },
        note="Peak memory is what a fresh process held above what it held before the step and after a step on 2 images: "
        f"median and range of {given.processes} processes each.",
    )


def contender(name: str, folder: Path, steps: int) -> nn.Module:
    """A network with the trained weights, in training mode."""
    model = trained(folder, steps)
    if name in OURS:
        model.half_gradients, keep = OURS[name]
        for module in model.modules():
            if isinstance(module, SpikingNeuron):
                module.keep = keep
        return model.train()
    return network(name, model, steps).train()


def step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A training step as a function."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


def fresh(name: str, folder: Path, steps: int, batch: int) -> Steps:
    """What a fresh process runs: a step on 2 images, and the one that is measured."""
    x, y = images("cifar10", "train", batch)
    model = contender(name, folder, steps)
    return step(model, x[:2], y[:2]), step(model, x, y)


if __name__ == "__main__":
    main()
