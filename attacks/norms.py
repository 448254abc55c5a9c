"""Balls and steps in L-inf, L2, L1 and L0: projection, random starts and steepest ascent, per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trustsnn.errors import ConfigError
from trustsnn.rng import Draws

NORMS = ("linf", "l2", "l1", "l0")


def check_norm(norm: str, known: Sequence[str] = NORMS) -> str:
    """`norm` if it is among `known`; ConfigError otherwise."""
    if norm not in known:
        raise ConfigError(f"Unknown norm {norm!r}: this attack is not defined for the norm. Known: {', '.join(known)}.")
    return norm


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One value a sample [B] in the shape that multiplies `like` [B, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def size(delta: Tensor, norm: str) -> Tensor:
    """The norm of each sample's perturbation, [B]. L0 counts pixels: places [..., H, W] where any channel changed."""
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    if norm == "l0":
        changed = (delta != 0).any(1) if delta.dim() == 4 else delta != 0
        return changed.flatten(1).sum(1).to(delta.dtype)
    length: Tensor = torch.linalg.vector_norm(flat, ord=1 if norm == "l1" else 2, dim=1)
    return length


def unit(direction: Tensor, norm: str) -> Tensor:
    """`direction` scaled to a norm of 1 (L1 or L2), or zeros where it is zero."""
    largest = direction.flatten(1).abs().amax(1)  # squares of tiny gradients would underflow, so they are scaled first
    scaled = direction / per_sample(torch.where(largest > 0, largest, 1.0), direction)
    return scaled / per_sample(size(scaled, norm).clamp_min(1e-30), direction)


def ascend(gradient: Tensor, step: float | Tensor, norm: str) -> Tensor:
    """The step of length `step` (one for all, or [B]) that raises the loss: step * sign(g) (L-inf), step * g / |g|_2 (L2),
    step * g / mean|g| (L0, Croce & Hein 2019), or for L1 equal changes of the largest 1 % of the entries (Tramer & Boneh 2019,
    arXiv 1904.13000: steepest ascent would change one entry alone)."""
    length = per_sample(step, gradient) if isinstance(step, Tensor) else step
    if norm == "linf":
        return length * gradient.sign()
    if norm == "l0":
        return length * gradient[0].numel() * unit(gradient, "l1")
    if norm == "l1":
        share = torch.full_like(gradient.flatten(1)[:, 0], 0.01)
        return length * sparse_sign(gradient, share)
    return length * unit(gradient, "l2")


def sparse_sign(gradient: Tensor, share: Tensor) -> Tensor:
    """The signs of each sample's `share` [B] of the largest entries, at least one, scaled to an L1 norm of 1."""
    sizes = gradient.flatten(1).abs()
    place = ((1 - share) * sizes.shape[1]).long().clamp(0, sizes.shape[1] - 1)
    least = sizes.sort(dim=1).values.gather(1, place[:, None]).squeeze(1)
    signs = gradient.sign() * (gradient.abs() >= per_sample(least, gradient))
    return signs / per_sample(size(signs, "l1").clamp_min(1), gradient)


def project(adversarial: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point of the ball of radius `eps` around `x`, then of the domain [0, 1]; for L1 and L0 the nearest point of
    both at once. An L0 ball holds all that differs in at most `eps` pixels."""
    if norm == "linf":
        return torch.minimum(torch.maximum(adversarial, x - eps), x + eps).clamp(0, 1)
    delta = adversarial - x
    if norm == "l1":
        return _project_l1(delta, x, eps)
    if norm == "l0":
        return _project_l0(adversarial, x, eps)
    length = size(delta, "l2")
    factor = torch.where(length > eps, eps / length.clamp_min(1e-30), 1.0)
    return (x + delta * per_sample(factor, x)).clamp(0, 1)


def _project_l1(delta: Tensor, x: Tensor, eps: float) -> Tensor:
    """x + sign(d) clip(|d| - m, 0, room), where room is how far an entry can go in [0, 1] and m >= 0 the least that brings the
    sum to `eps` (Croce & Hein 2021, arXiv 2103.01208, section 3.1). That sum is linear between the sorted places where an
    entry stops being clipped from above (|d| - room) or reaches zero (|d|)."""
    far = delta.flatten(1).abs().double()
    room = torch.where(delta > 0, 1 - x, x).flatten(1).double()
    places, order = torch.cat([(far - room).clamp_min(0), far], 1).sort(dim=1, stable=True)
    shrinking = torch.where(order < far.shape[1], 1, -1).cumsum(1)  # entries that shrink right after each place
    lost = shrinking[:, :-1] * places.diff(dim=1)
    total = torch.nn.functional.pad(lost.flip(1).cumsum(1).flip(1), (0, 1))  # the sum that is left at each place
    last = ((total > eps).sum(1, keepdim=True) - 1).clamp_min(0)
    there = [each.gather(1, last) for each in (total, places, shrinking)]
    excess = (there[0] - eps).clamp_min(0)
    shift = torch.where(excess > 0, there[1] + excess / there[2].clamp_min(1), 0.0)
    moved = torch.minimum((far - shift).clamp_min(0), room).to(x.dtype).view_as(x)
    return (x + delta.sign() * moved).clamp(0, 1)


def _project_l0(adversarial: Tensor, x: Tensor, eps: float) -> Tensor:
    """Keeps the `eps` pixels whose change brings the most (Croce & Hein 2019, arXiv 1909.05040, section 3)."""
    inside = adversarial.clamp(0, 1)
    gain = (adversarial - x).square() - (adversarial - inside).square()
    gain = (gain.sum(1) if x.dim() == 4 else gain).flatten(1)
    ranks = gain.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
    kept = (ranks < int(eps)) & (gain > 0)
    shape = (len(x), 1, *x.shape[2:]) if x.dim() == 4 else x.shape
    return torch.where(kept.view(shape), inside, x)


def random_start(x: Tensor, eps: float, norm: str, draws: Draws) -> Tensor:
    """A random point of the ball around `x` and of [0, 1]: drawn uniformly from the ball and clamped (L-inf, L2), or the
    projection of noise (L1, L0)."""
    shape = tuple(x.shape[1:])
    if norm in ("linf", "l0"):
        reach = eps if norm == "linf" else 1.0
        return project(x + reach * (2 * draws.uniform(shape).to(x.device) - 1), x, eps, norm)
    direction = draws.child("direction").normal(shape).to(x.device)
    if norm == "l1":
        return project(x + eps * unit(direction, "l1"), x, eps, norm)
    radius = draws.child("radius").uniform(()).to(x.device) ** (1 / x[0].numel())
    on_sphere = direction / per_sample(size(direction, "l2").clamp_min(1e-30), x)
    return (x + eps * per_sample(radius, x) * on_sphere).clamp(0, 1)
