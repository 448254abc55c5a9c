"""The ways in which spiking networks lay out time, as small reference models: what the verifier and the audit are tried on.

All are a linear layer, leaky integrate-and-fire neurons, a linear readout and the mean over time, for inputs [B, ...] that are the same
at every step. Stock Opacus finds the right gradients for some of them and the wrong ones for others, without a word.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.defenses.dp.gradients import Gradients

LEAK, THRESHOLD, WIDTH = 0.5, 1.0, 1.0


def spike(membrane: Tensor) -> Tensor:
    """1[u >= V] with the derivative of sigmoid((u - V) / width)."""
    soft = torch.sigmoid((membrane - THRESHOLD) / WIDTH)
    return soft + ((membrane >= THRESHOLD).to(soft.dtype) - soft).detach()


def fire(currents: Tensor) -> Tensor:
    """Spikes [T, B, ...] of neurons with soft reset for currents of that shape."""
    membrane, spikes = torch.zeros_like(currents[0]), []
    for current in currents.unbind(0):
        membrane = LEAK * membrane + current
        spikes.append(spike(membrane))
        membrane = membrane - THRESHOLD * spikes[-1]
    return torch.stack(spikes)


class Layout(nn.Module):
    """Logits [B, K] of inputs [B, ...] with `features` values each."""

    def __init__(self, features: int, classes: int, *, hidden: int = 32, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps
        self.first, self.readout = nn.Linear(features, hidden), nn.Linear(hidden, classes)


class Looped(Layout):
    """Time is a loop inside forward: every layer runs T times on [B, F]."""

    def forward(self, x: Tensor) -> Tensor:
        spikes = fire(torch.stack([self.first(x.flatten(1)) for _ in range(self.steps)]))
        return torch.stack([self.readout(step) for step in spikes]).mean(0)


class Sequences(Layout):
    """Time is a dimension behind the batch: layers run once on [B, T, F]."""

    def forward(self, x: Tensor) -> Tensor:
        currents = self.first(x.flatten(1).unsqueeze(1).repeat(1, self.steps, 1))
        return self.readout(fire(currents.transpose(0, 1)).transpose(0, 1)).mean(1)  # type: ignore[no-any-return]


class Folded(Layout):
    """Time is folded into the batch: layers run once on [T * B, F]. To stock Opacus each (t, b) is a sample."""

    def forward(self, x: Tensor) -> Tensor:
        currents = self.first(x.flatten(1).repeat(self.steps, 1)).unflatten(0, (self.steps, -1))
        return self.readout(fire(currents).flatten(0, 1)).unflatten(0, (self.steps, -1)).mean(0)  # type: ignore[no-any-return]


class FoldedConvolution(nn.Module):
    """The same with a convolution over images [B, 1, H, W]."""

    def __init__(self, side: int, classes: int, *, channels: int = 4, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.readout = nn.Linear(channels * side * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        currents = self.first(x.repeat(self.steps, 1, 1, 1)).unflatten(0, (self.steps, -1))
        return self.readout(fire(currents).flatten(2).flatten(0, 1)).unflatten(0, (self.steps, -1)).mean(0)  # type: ignore[no-any-return]


class SteppedNeuron(nn.Module):
    """Neurons with a learnt leak that keep their membrane between calls, one call a step. Opacus runs each call again by itself, from a
    membrane that is not the one it had."""

    def __init__(self) -> None:
        super().__init__()
        self.leak = nn.Parameter(torch.tensor(LEAK))
        self.membrane: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        before = torch.zeros_like(current) if self.membrane is None else self.membrane
        membrane = self.leak * before + current
        spikes = spike(membrane)
        self.membrane = membrane - THRESHOLD * spikes
        return spikes


class Stepped(Layout):
    """Time is a loop, and the neurons are a layer with state."""

    def __init__(self, features: int, classes: int, *, hidden: int = 32, steps: int = 4) -> None:
        super().__init__(features, classes, hidden=hidden, steps=steps)
        self.neuron = SteppedNeuron()

    def forward(self, x: Tensor) -> Tensor:
        self.neuron.membrane = None
        currents = [self.first(x.flatten(1)) for _ in range(self.steps)]
        logits = torch.stack([self.readout(self.neuron(current)) for current in currents]).mean(0)
        self.neuron.membrane = None
        return logits


LAYOUTS: dict[str, Callable[..., Layout]] = {"looped": Looped, "sequences": Sequences, "folded": Folded, "stepped": Stepped}


def stock_opacus(model: nn.Module, x: Tensor, y: Tensor) -> Gradients:
    """What Opacus's `GradSampleModule` takes for the gradients of the samples, as many as it takes for samples."""
    wrapped = importlib.import_module("opacus.grad_sample").GradSampleModule(copy.deepcopy(model).train(), loss_reduction="mean")
    with warnings.catch_warnings(action="ignore"):  # that no input needs a gradient
        cross_entropy(wrapped(x), y).backward()
    return {name.removeprefix("_module."): p.grad_sample for name, p in wrapped.named_parameters() if p.requires_grad}
