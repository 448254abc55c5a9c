"""Encoders: how a batch of inputs becomes a sequence of currents or spikes, [B, ...] -> [T, B, ...].

Every encoder is differentiable with respect to its input, so that an attack on a model goes through its coding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.neurons.estimator import over_time
from trustsnn.rng import Draws

Generator = Draws | torch.Generator | None


def direct(x: Tensor, steps: int, generator: Generator = None) -> Tensor:
    """The input as a constant current: [1, B, ...], which stands for the same current at each of the T steps."""
    return x.unsqueeze(0)


class _Poisson(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, uniform: Tensor) -> Tensor:
        return (uniform < x.abs()).to(x.dtype) * x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return over_time(gradients[0]), None


def poisson(x: Tensor, steps: int, generator: Generator = None) -> Tensor:
    """Rate coding: at each step a spike of the sign of x with probability |x|, x in [-1, 1]; [T, B, ...].

    Straight-through gradient: d s_t / d x = 1, the derivative of the expected spike. Needs `generator`: `Draws` for
    draws that depend on the sample alone, or a `torch.Generator`.
    """
    if isinstance(generator, Draws):
        uniform = generator.uniform((steps, *x.shape[1:])).transpose(0, 1).to(x.device)
    elif isinstance(generator, torch.Generator):
        uniform = torch.rand((steps, *x.shape), generator=generator, device=generator.device).to(x.device)
    else:
        raise ModelContractError(
            "A Poisson-coded model is stochastic and draws only from an explicit generator. Call it as "
            "model(x, generator=torch.Generator().manual_seed(0)), or with trustsnn.rng.Draws."
        )
    result: Tensor = _Poisson.apply(x, uniform)  # type: ignore[no-untyped-call]
    return result


class _OneSpike(torch.autograd.Function):
    """One spike a pixel at step `time`. A larger input fires earlier, by `slope` steps per unit: the gradient is the
    central difference of the loss when the spike moves by one step (one-sided at the ends)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, time: Tensor, steps: int, slope: float) -> Tensor:
        ctx.save_for_backward(time)
        ctx.slope = slope
        spikes = x.new_zeros((steps, *x.shape))
        return spikes.scatter_(0, time.unsqueeze(0), 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (time,) = ctx.saved_tensors
        last = len(gradients[0]) - 1
        earlier, later = (time - 1).clamp_min(0), (time + 1).clamp_max(last)
        rise = gradients[0].gather(0, earlier.unsqueeze(0)) - gradients[0].gather(0, later.unsqueeze(0))
        distance = (later - earlier).clamp_min(1)
        return (rise.squeeze(0) / distance * ctx.slope), None, None, None


def latency(x: Tensor, steps: int, generator: Generator = None) -> Tensor:
    """Time to first spike: one spike at t = floor((1 - x)(T - 1)), x in [0, 1]; [T, B, ...]."""
    time = ((1 - x.detach().clamp(0, 1)) * (steps - 1)).floor().long()
    result: Tensor = _OneSpike.apply(x, time, steps, float(steps - 1))  # type: ignore[no-untyped-call]
    return result


def single_spike(x: Tensor, steps: int, generator: Generator = None) -> Tensor:
    """Single-spike hybrid coding (Datta, IJCNN 2021, arXiv 2107.12374): the pixel x in [0, 1] itself at t = 0, and after that one
    spike, at t = 1 + the whole number nearest to (1 - x)(T - 2), halves to the later step; [T, B, ...].

    The sum over time is x + 1. With T = 1 there is the pixel alone, and with T = 2 every spike is at t = 1. The gradient is 1 at
    t = 0, and that of moving the spike after it (slope T - 2 per unit).
    """
    analogue = x.unsqueeze(0)
    if steps == 1:
        return analogue
    time = ((1 - x.detach().clamp(0, 1)) * (steps - 2) + 0.5).floor().long()
    spikes: Tensor = _OneSpike.apply(x, time, steps - 1, float(steps - 2))  # type: ignore[no-untyped-call]
    return torch.cat([analogue, spikes])


def rank_order(x: Tensor, steps: int, generator: Generator = None) -> Tensor:
    """Rank order (Thorpe 1998): pixels sorted from the largest down, one spike each, T groups of equal size; [T, B, ...].

    Equal pixels keep their raster order. The gradient takes the density of ranks as uniform (slope T per unit).
    """
    flat = x.detach().flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(flat.shape[1], device=x.device).expand_as(order))
    time = (rank * steps // flat.shape[1]).view(x.shape)
    result: Tensor = _OneSpike.apply(x, time, steps, float(steps))  # type: ignore[no-untyped-call]
    return result


def frequency(x: Tensor, steps: int, generator: Generator = None) -> Tensor:
    """Frequency coding (FEEL-SNN, Xu NeurIPS 2024): at step t the image [B, ..., H, W] without the frequencies of its 2-D DFT beyond
    the radius r_t = min(H, W)/2 (1 - t/max(8, T)), in cycles a side; [T, B, ...].

    That is 16, 14, 12, 10 for 32 x 32 pixels and T = 4, as published; what other sizes have is not. Linear in x, so that the
    gradient is exact; values may leave [0, 1].
    """
    height, width = x.shape[-2:]
    down, across = (torch.fft.fftfreq(size, 1 / size, device=x.device) for size in (height, width))
    distance = (down[:, None].square() + across.square()).sqrt()
    radii = min(height, width) / 2 * (1 - torch.arange(steps, device=x.device) / max(8, steps))
    kept = (distance <= radii[:, None, None]).view(steps, *[1] * (x.dim() - 2), height, width)
    found: Tensor = torch.fft.ifft2(torch.fft.fft2(x) * kept).real
    return found


def frames(x: Tensor, steps: int, generator: Generator = None) -> Tensor:
    """Event frames [B, T, ...] as they are, time first: [T, B, ...]."""
    if x.shape[1] != steps:
        raise ModelContractError(f"Expected {steps} event frames, [B, {steps}, C, H, W], got {tuple(x.shape)}.")
    return x.transpose(0, 1)


@dataclass(frozen=True)
class Encoder:
    """A coding by name: its function, whether it draws at random, and one line on it."""

    encode: Callable[[Tensor, int, Generator], Tensor]
    stochastic: bool
    description: str


ENCODERS: dict[str, Encoder] = {
    "direct": Encoder(direct, False, "constant input current at every step"),
    "poisson": Encoder(poisson, True, "spikes with probability equal to the pixel"),
    "latency": Encoder(latency, False, "one spike a pixel, brighter is earlier"),
    "single-spike": Encoder(single_spike, False, "the pixel at the first step, then one spike a pixel, brighter is earlier"),
    "rank-order": Encoder(rank_order, False, "one spike a pixel, in the order of brightness"),
    "frequency": Encoder(frequency, False, "the image low-passed, more so at each step (FEEL)"),
    "frames": Encoder(frames, False, "event frames, one a step"),
}


def encoder(name: str) -> Encoder:
    """The encoder called `name`; ConfigError names the known ones."""
    if name not in ENCODERS:
        raise ConfigError(f"Unknown encoder {name!r}. Known: {', '.join(ENCODERS)}.")
    return ENCODERS[name]
