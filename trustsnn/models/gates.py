"""Layers that draw at random, and stochastic gates for spikes (StoG, Ding AAAI 2024), which each neuron's spikes pass with a
probability that is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ModelContractError
from trustsnn.rng import Draws

LEAST = 0.1  # of a probability, as in the authors' code


class Drawn(nn.Module):
    """A layer that draws at random for each sample and step.

    `forward(h, part, generator)` takes h [T * B, ...] of the time steps `part`, numbered from 0, and a generator as `SpikingNetwork`
    does. What is drawn for a sample depends on nothing but that generator. `spikes`: whether spikes stay spikes. `held`: whether one
    draw is for all time steps, so that an input that is the same at each of them stays so.
    """

    spikes: ClassVar[bool] = False
    held: ClassVar[bool] = False

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """What comes of `h`, shaped as `h`."""
        raise NotImplementedError

    def over_time(self) -> nn.Module:
        """What this is in the mean over its draws; noise of mean 0 unless a layer says otherwise."""
        return nn.Identity()


class Gate(Drawn):
    """Spikes times 1[a < p], a uniform for each sample, step and neuron, with the parameter `keep` [...neurons] held in [0.1, 1] as p.

    The gradient with respect to p is that of the expected gate, d s/dp = s (straight through); the authors relax the gate by a
    concrete distribution.
    """

    spikes: ClassVar[bool] = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.keep = nn.Parameter(torch.ones(tuple(shape)))

    def probabilities(self) -> Tensor:
        """p, with the gradient of the identity, so that a bound is never a trap."""
        return self.keep + (self.keep.clamp(LEAST, 1.0) - self.keep).detach()

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """The spikes that pass."""
        keep = self.probabilities()
        passes = (uniform(generator, part, h).unflatten(0, (-1, len(h) // len(_given(part)))) < keep.detach()).to(h.dtype)
        found: Tensor = h * (passes + (keep - keep.detach())).flatten(0, 1)
        return found

    def over_time(self) -> nn.Module:
        """What this is in the mean over its draws."""
        return _Mean(self.probabilities().detach())

    def extra_repr(self) -> str:
        return f"{list(self.keep.shape)}, mean keep={float(self.probabilities().detach().mean()):.3g}"


class _Mean(nn.Module):
    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.keep


def uniform(generator: Generator, part: range | None, like: Tensor) -> Tensor:
    """Uniform draws in [0, 1) shaped as `like` [T * B, ...] for the time steps `part`; those of a sample's step depend on nothing but
    the `Draws`."""
    return _drawn(generator, part, like, "uniform")


def normal(generator: Generator, part: range | None, like: Tensor) -> Tensor:
    """Standard normal draws, as `uniform`."""
    return _drawn(generator, part, like, "normal")


def _drawn(generator: Generator, part: range | None, like: Tensor, how: str) -> Tensor:
    part = _given(part)
    if generator is None:
        raise ModelContractError(
            "A network with layers that draw at random takes an explicit generator. Call it as "
            "model(x, generator=torch.Generator().manual_seed(0)), or with trustsnn.rng.Draws."
        )
    if isinstance(generator, Draws):
        drawn = getattr(generator, how)((part.stop, *like.shape[1:])).transpose(0, 1)[part.start :].flatten(0, 1)
    else:
        draw = torch.rand if how == "uniform" else torch.randn
        drawn = draw(like.shape, generator=generator, device=generator.device)
    found: Tensor = drawn.to(like.device)
    return found


def _given(part: range | None) -> range:
    if part is None:
        raise ModelContractError("A layer that draws at random runs in a SpikingNetwork, which tells it the time steps.")
    return part
