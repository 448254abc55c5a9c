"""Inference of `vgg9` on CIFAR-10 images with trained weights.

python benchmarks/inference.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from harness import begin, images, kernels, options, times, under
from model import model_option, trained
from peers import CHECKED, networks
from report import Report
from torch import Tensor, nn

from trustsnn.blocks import frozen, predict


def main() -> None:
    """One table for each number of time steps."""
    parser = options(__doc__.splitlines()[0], rounds=15, warmup=3)
    model_option(parser)
    parser.add_argument("--batch", type=int, default=32, help="images (default %(default)s)")
    parser.add_argument("--steps", default="4,16", help="time steps T, with commas (default %(default)s)")
    parser.add_argument("--kernels", default="native,numba,torch", help="trustsnn's (default %(default)s)")
    given = begin(parser)
    x, _ = images("cifar10", "test", max(given.batch, CHECKED))
    report = Report("Inference", given)
    for steps in map(int, given.steps.split(",")):
        model = trained(given.model, steps)
        peers, agrees = networks(model, x[:CHECKED])
        batch = x[: given.batch]
        contenders: dict[str, Callable[[], object]] = {name: partial(plainly, peer, batch) for name, peer in peers.items()}
        for kernel in kernels(given.kernels):
            contenders[f"trustsnn {kernel}"] = under(kernel, partial(predict, model, batch))
        with frozen(model):
            seconds = times(contenders, given.rounds, given.warmup)
        report.timings(
            f"vgg9, CIFAR-10, B {given.batch}, T {steps}",
            seconds,
            peers=list(peers),
            extra={f"against trustsnn, {CHECKED} images": agrees},
        )


def plainly(model: nn.Module, x: Tensor) -> Tensor:
    """A forward pass without gradients, as a peer's user has it."""
    with torch.no_grad():
        return model(x)


if __name__ == "__main__":
    main()
