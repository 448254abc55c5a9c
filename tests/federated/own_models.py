"""Models of a user, for the tests of federations of them."""

from __future__ import annotations

import torch
from torch import nn

import trustsnn


class Heaviside(torch.autograd.Function):
    """A spike, with a triangle for its derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.abs()).clamp(min=0)


class Net(nn.Module):
    """Two layers of neurons of its own, which loop over three steps, with dropout and a normalisation."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop, self.last = nn.Linear(64, 24), nn.BatchNorm1d(24), nn.Dropout(0.2), nn.Linear(24, 10)

    def forward(self, x):
        current = self.norm(self.first(x.flatten(1)))
        membrane, total = torch.zeros_like(current), 0.0
        for _ in range(3):
            membrane = 0.5 * membrane + current
            spikes = Heaviside.apply(membrane - 1)
            membrane = membrane * (1 - spikes.detach())
            total = total + self.last(self.drop(spikes))
        return total / 3


def net():
    return trustsnn.wrap(Net(), time_steps=3)


def slower():
    return trustsnn.wrap(Net(), time_steps=4)


def bare():
    return Net()


def broken():
    raise RuntimeError("no weights")
