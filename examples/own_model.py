"""Audit a spiking network of your own, written in plain PyTorch.

    python examples/own_model.py

The network has its own spike function and its own loop over time. It is trained for a few seconds on scikit-learn's
digits, then audited; the report lies in runs/mine/report.html. Only the lines at the end know of trustsnn. A run folder
belongs to one network: change the network, and choose another folder.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import trustsnn

TIME_STEPS = 4


class Spike(torch.autograd.Function):
    """1 where the membrane reaches the threshold; backward, the derivative of a fast sigmoid in place of the step's."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradients[0] / (1 + 2 * distance.abs()) ** 2


class MyNetwork(nn.Module):
    """Two layers, leaky integrate-and-fire neurons between them: images [B, 1, 8, 8] to logits [B, 10]."""

    def __init__(self, leak: float = 0.5, threshold: float = 1.0) -> None:
        super().__init__()
        self.leak, self.threshold = leak, threshold
        self.hidden = nn.Linear(64, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        current = self.hidden(x.flatten(1))
        membrane = torch.zeros_like(current)  # made anew in every forward: nothing is kept from the batch before
        logits = []
        for _ in range(TIME_STEPS):
            membrane = self.leak * membrane + current
            spikes = Spike.apply(membrane - self.threshold)
            membrane = membrane * (1 - spikes)
            logits.append(self.output(spikes))
        return torch.stack(logits).mean(0)


def trained(x: Tensor, y: Tensor) -> MyNetwork:
    """The network after 150 steps on the whole of (x, y)."""
    torch.manual_seed(0)
    network = MyNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network


digits = load_digits()
images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)  # [N, 1, 8, 8], values in [0, 1]
labels = torch.tensor(digits.target)
x_train, x, y_train, y = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
my_module = trained(x_train, y_train)

# From here on: trustsnn.
model = trustsnn.wrap(my_module, domain="image", time_steps=TIME_STEPS)
run = trustsnn.audit(model, (x, y), profile="quick", out="runs/mine")
print(run.verdict, run.robust_accuracy["linf", 8 / 255], run.findings, run.report)

adv = trustsnn.attacks.PGD(eps=8 / 255, steps=40)(model, x, y)
with torch.no_grad():
    print(f"PGD-40 leaves {int((model(adv).argmax(1) == y).sum())} of {len(y)} correct.")
