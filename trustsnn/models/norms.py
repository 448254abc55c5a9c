"""Normalisations of a spiking network: over batch, space and time, or for each time step by itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = {
    "td": "batch normalisation over batch, time and space whose weights start at the threshold (tdBN, Zheng 2021)",
    "bntt": "batch normalisation of each time step by itself, without bias (Kim & Panda 2021)",
    "group": "group normalisation of each sample and time step by itself (Wu & He 2018), which private training can have",
    "batch": "batch normalisation over batch, time and space",
    "none": "no normalisation: layers have a bias",
}


_IN_A_GROUP = 16  # channels, as in Wu & He 2018, table 3


def group_norm(features: int) -> nn.GroupNorm:
    """Group normalisation of [N, features, ...] with groups of 16 channels, or of more where 16 does not divide them."""
    return nn.GroupNorm(math.gcd(features, max(1, features // _IN_A_GROUP)), features)


class BatchNormThroughTime(nn.Module):
    """Batch normalisation with statistics and weights [T, C] of each time step's own and without bias (BNTT, Kim & Panda 2021,
    arXiv 2010.01729): y_t = weight_t (x_t - mean_t) / sqrt(var_t + eps).

    `forward` takes [given * B, C, ...], `given` being T, or 1 for the same input at every step, and gives [T * B, C, ...]; or that
    of a part of the time steps, T then being their number.
    `flat`: the input is [N, C] and has no pixels.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, steps: int, *, flat: bool = False, eps: float = 1e-4, momentum: float = 0.1) -> None:
        super().__init__()
        self.flat, self.eps, self.momentum = flat, eps, momentum
        self.weight = nn.Parameter(torch.ones(steps, features))
        self.register_buffer("running_mean", torch.zeros(steps, features))
        self.register_buffer("running_var", torch.ones(steps, features))

    def forward(self, x: Tensor, given: int, part: range | None = None) -> Tensor:
        part = range(len(self.weight)) if part is None else part
        steps = x.unflatten(0, (given, -1)).expand(len(part), *[-1] * x.dim())
        return torch.cat([self._normalise(step, t) for t, step in zip(part, steps, strict=True)])

    def _normalise(self, x: Tensor, t: int) -> Tensor:
        if self.training:
            mean, variance = self.running_mean[t], self.running_var[t]
            return F.batch_norm(x, mean, variance, self.weight[t], None, True, self.momentum, self.eps)
        shape = (-1, *[1] * (x.dim() - 2))  # two roundings, each the same wherever in a vector the element lies
        scale, shift = self.affine()
        return x * scale[t].view(shape) + shift[t].view(shape)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each step in eval mode, [T, C]."""
        scale = self.weight / (self.running_var + self.eps).sqrt()
        return scale, -self.running_mean * scale

    def over_time(self) -> nn.BatchNorm1d | nn.BatchNorm2d:
        """What this is in the mean over time for an input that stays the same, in eval mode; a copy without gradient."""
        with torch.no_grad():
            scale, shift = (part.mean(0) for part in self.affine())
        norm = (nn.BatchNorm1d if self.flat else nn.BatchNorm2d)(len(scale), eps=0.0).to(scale)
        norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(shift)
        return norm.eval()

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, steps={len(self.weight)}"
