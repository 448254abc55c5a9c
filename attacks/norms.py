"""Balls and steps in L-inf and L2: projection, random starts and steepest ascent, per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from trustsnn.errors import ConfigError
from trustsnn.rng import Draws

NORMS = ("linf", "l2")


def check_norm(norm: str) -> str:
    """`norm` if it is known; ConfigError otherwise."""
    if norm not in NORMS:
        raise ConfigError(f"Unknown norm {norm!r}. Known: {', '.join(NORMS)}.")
    return norm


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def size(delta: Tensor, norm: str) -> Tensor:
    """The norm of each sample's perturbation, [B]."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def ascend(gradient: Tensor, step: float, norm: str) -> Tensor:
    """The step of length `step` that raises the loss the most to first order: step * sign(g), or step * g / |g|_2."""
    if norm == "linf":
        return step * gradient.sign()
    largest = gradient.flatten(1).abs().amax(1)  # squares of tiny gradients would underflow, so they are scaled first
    unit = gradient / _per_sample(torch.where(largest > 0, largest, 1.0), gradient)
    return step * unit / _per_sample(unit.flatten(1).norm(dim=1).clamp_min(1e-30), gradient)


def project(adversarial: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point of the ball of radius `eps` around `x`, then of the domain [0, 1]."""
    if norm == "linf":
        return torch.minimum(torch.maximum(adversarial, x - eps), x + eps).clamp(0, 1)
    delta = adversarial - x
    length = size(delta, "l2")
    factor = torch.where(length > eps, eps / length.clamp_min(1e-30), 1.0)
    return (x + delta * _per_sample(factor, x)).clamp(0, 1)


def random_start(x: Tensor, eps: float, norm: str, draws: Draws) -> Tensor:
    """A point drawn uniformly from the ball around `x`, then clamped to [0, 1]."""
    shape = tuple(x.shape[1:])
    if norm == "linf":
        return (x + eps * (2 * draws.uniform(shape).to(x.device) - 1)).clamp(0, 1)
    direction = draws.child("direction").normal(shape).to(x.device)
    radius = draws.child("radius").uniform(()).to(x.device) ** (1 / x[0].numel())
    unit = direction / _per_sample(size(direction, "l2").clamp_min(1e-30), x)
    return (x + eps * _per_sample(radius, x) * unit).clamp(0, 1)
