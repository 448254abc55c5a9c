"""How many entries of an input gradient change in their last bits with the batch size: plain, through kernels, and in blocks.

    python benchmarks/batch_invariance.py

"plain" is PyTorch's own arithmetic on the batch as it is, the kernels by name the same through them, and "blocks" what every
evaluation does (`trustsnn.blocks`) with the kernels that are in use by default.
"""

from __future__ import annotations

import torch
from harness import begin, options
from report import Report
from torch import Tensor, nn

from trustsnn.blocks import frozen, input_gradient
from trustsnn.data import load
from trustsnn.kernels import available, using
from trustsnn.models import build
from trustsnn.training import TrainConfig, train


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """One loss a sample."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


def whole(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The input gradient of a batch as it is."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)
    return gradient


def blocked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The input gradient as every evaluation takes it."""
    return input_gradient(model, x, y, cross_entropy).direction


def main() -> None:
    """Train `conv` on digits briefly; compare batch sizes 1, 7 and 64 with one batch of 360."""
    given = begin(options(__doc__.splitlines()[0]))
    data, test = load("digits", "train"), load("digits", "test")
    model = build("conv", input_shape=data.sample_shape, classes=10)
    train(model, data, TrainConfig(epochs=5, batch_size=64))
    x, y = (torch.tensor(values) for values in test.batch(range(len(test))))
    ways = {"plain" if name == "torch" else name: (name, whole) for name in reversed(available())}
    ways["blocks"] = (available()[0], blocked)
    shares: dict[str, dict[int, float]] = {}
    for way, (kernel, gradient) in ways.items():
        with using(kernel), frozen(model):
            expected = gradient(model, x, y)
            shares[way] = {}
            for size in (1, 7, 64):
                parts = [gradient(model, a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
                shares[way][size] = float((torch.cat(parts) != expected).double().mean())
    rows = [[str(size), *(f"{shares[way][size]:.1%}" for way in ways)] for size in (1, 7, 64)]
    note = f"Entries of the input gradient that differ from those in one batch of {len(x)}."
    Report("Batch size and the last bits", given).table("conv on digits", ["batch size", *ways], rows, note, shares)


if __name__ == "__main__":
    main()
