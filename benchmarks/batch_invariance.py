"""How many entries of an input gradient change in their last bits with the batch size, plainly and in fixed blocks.

python benchmarks/batch_invariance.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trustsnn.blocks import frozen, input_gradient
from trustsnn.data import load
from trustsnn.models import build
from trustsnn.training import TrainConfig, train


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """One loss a sample."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


def main() -> None:
    """Train `conv` on digits briefly; print, for batch sizes 1, 7 and 64, the share of entries that differ from one batch of 360."""
    data, test = load("digits", "train"), load("digits", "test")
    model = build("conv", input_shape=data.sample_shape, classes=10)
    train(model, data, TrainConfig(epochs=5, batch_size=64))
    x, y = (torch.tensor(values) for values in test.batch(range(len(test))))

    def plain(x: Tensor, y: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)
        return gradient

    def blocked(x: Tensor, y: Tensor) -> Tensor:
        return input_gradient(model, x, y, cross_entropy).direction

    with frozen(model):
        for size in (1, 7, 64):
            shares = []
            for gradient in (plain, blocked):
                parts = torch.cat([gradient(a, b) for a, b in zip(x.split(size), y.split(size), strict=True)])
                shares.append((parts != gradient(x, y)).float().mean().item())
            print(f"batch size {size}: {shares[0]:.1%} of the entries differ plainly, {shares[1]:.1%} in fixed blocks")


if __name__ == "__main__":
    main()
