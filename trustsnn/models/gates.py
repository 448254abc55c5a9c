"""Stochastic gates for spikes (StoG, Ding AAAI 2024): each neuron's spikes pass with a probability that is learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ModelContractError
from trustsnn.rng import Draws

LEAST = 0.1  # of a probability, as in the authors' code


class Gate(nn.Module):
    """Spikes times 1[a < p], a uniform for each sample, step and neuron, with the parameter `keep` [...neurons] held in [0.1, 1] as p.

    The gradient with respect to p is that of the expected gate, d s/dp = s (straight through); the authors relax the gate by a
    concrete distribution.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.keep = nn.Parameter(torch.ones(tuple(shape)))

    def probabilities(self) -> Tensor:
        """p, with the gradient of the identity, so that a bound is never a trap."""
        return self.keep + (self.keep.clamp(LEAST, 1.0) - self.keep).detach()

    def forward(self, spikes: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """The spikes that pass, [T * B, ...], of the time steps `part`, numbered from 0."""
        if part is None or generator is None:
            raise ModelContractError(
                "A network with stochastic gates draws only from an explicit generator. Call it as "
                "model(x, generator=torch.Generator().manual_seed(0)), or with trustsnn.rng.Draws."
            )
        keep = self.probabilities()
        passes = (_uniform(generator, part, len(spikes) // len(part), keep) < keep.detach()).to(spikes.dtype)
        return spikes * (passes + (keep - keep.detach())).flatten(0, 1)

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


def _uniform(generator: Draws | torch.Generator, part: range, batch: int, like: Tensor) -> Tensor:
    """Uniform draws [len(part), batch, *like.shape]; those of a sample's step depend on nothing but `Draws`."""
    if isinstance(generator, Draws):
        drawn = generator.uniform((part.stop, *like.shape)).transpose(0, 1)[part.start :]
    else:
        drawn = torch.rand((len(part), batch, *like.shape), generator=generator, device=generator.device)
    return drawn.to(like.device)
