"""Losses that an attack raises, one value a sample, from logits [B, K] and labels [B].

A goal is what an attack's loss is about: labels [B], or pairs (label, target) [B, 2] in a targeted attack. A targeted loss
rises towards the target.

Logits that are spike counts tie: a T-step network has T + 1 levels. `dlr` then divides by zero in the paper's form, and
`margin` reads 0 whether the tie is decided for the label or against it. `dlr` and `margin-ties` mend that.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from trustsnn.errors import ConfigError

_DLR_FLOOR = 1e-3  # of the range of a sample's logits: a nonzero gap of spike counts exceeds it up to T = 1,000
_TINY = 1e-12
_WIDEST = 20.0  # range of logits that the scaled cross-entropy sees


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y, in double precision so that it does not underflow for a confident model."""
    return functional.cross_entropy(logits.double(), y, reduction="none")


def cross_entropy_scaled(logits: Tensor, y: Tensor) -> Tensor:
    """`cross_entropy` of logits scaled down to a range of 20, where a sample's are further apart; the scale counts as constant.

    Logits times 100 are the same classifier, but their cross-entropy sees the label and the best other class alone, and less and less
    of the label (Carlini & Wagner 2017). trustsnn's own; up to a range of 20 it is the cross-entropy.
    """
    return cross_entropy(logits * (_WIDEST / _range(logits).clamp_min(_WIDEST))[:, None], y)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} z_k - z_y (Carlini & Wagner 2017): positive where the sample is misclassified."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own


def margin_ties(logits: Tensor, y: Tensor) -> Tensor:
    """The margin made strict at ties: positive where argmax is not the label, negative where it is, never 0.

    While the label wins, a small amount is taken off, the less of it the more other classes are close behind the best of them,
    so that a search also sees progress within one level of the margin. It is at most 0.001 of the range of the sample's logits:
    0.0001 range times -log mean_{k != y} exp(10 (z_k - max_{j != y} z_j) / range). trustsnn's own.
    """
    z = logits.double()
    own = z.gather(1, y[:, None]).squeeze(1)
    others = z.scatter(1, y[:, None], -torch.inf)
    best, spread = others.amax(1), _range(z).clamp_min(_TINY)
    behind = torch.logsumexp(10 * (others - best[:, None]) / spread[:, None], 1) - math.log(max(1, z.shape[1] - 1))
    fooled = logits.argmax(1) != y
    return best - own + spread * torch.where(fooled, 1e-6, 1e-4 * behind - 1e-6)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, (max_{k != y} z_k - z_y) / (z_(1) - z_(3)), z_(i) the i-th largest (Croce & Hein 2020,
    arXiv 2003.01690, eq. 6). Needs three classes.

    The denominator is at least 0.001 of the range of the sample's logits: where three logits tie at the top, the loss is the
    margin in units of that floor, with its sign and a gradient. Without such a near tie it is the paper's.
    """
    z, largest = _sorted(logits, 3, "dlr")
    return margin(z, y) / _floored(largest[:, 0] - largest[:, 2], z)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2) (Croce & Hein 2020, eq. 7), floored as `dlr`. Needs four classes."""
    z, largest = _sorted(logits, 4, "the targeted dlr")
    return difference(z, torch.stack([y, target], 1)) / _floored(largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2, z)


def difference(logits: Tensor, pair: Tensor) -> Tensor:
    """z_b - z_a for pairs (a, b) [B, 2]."""
    return (logits.gather(1, pair[:, 1:]) - logits.gather(1, pair[:, :1])).squeeze(1)


def _range(z: Tensor) -> Tensor:
    return (z.amax(1) - z.amin(1)).detach()


def _floored(denominator: Tensor, z: Tensor) -> Tensor:
    floor = (_DLR_FLOOR * _range(z)).clamp_min(_TINY)
    return torch.where(denominator > floor, denominator, floor)


def _sorted(logits: Tensor, classes: int, name: str) -> tuple[Tensor, Tensor]:
    if logits.shape[1] < classes:
        raise ConfigError(f"The loss {name} needs at least {classes} classes, got {logits.shape[1]}. Use margin-ties or ce.")
    z = logits.double()
    return z, z.topk(classes, dim=1).values


LOSSES = {"ce": cross_entropy, "ce-scaled": cross_entropy_scaled, "margin": margin, "margin-ties": margin_ties, "dlr": dlr}
TARGETED_LOSSES = {
    "ce": lambda z, y, target: -cross_entropy(z, target),
    "ce-scaled": lambda z, y, target: -cross_entropy_scaled(z, target),
    "margin": lambda z, y, target: -margin(z, target),
    "margin-ties": lambda z, y, target: -margin_ties(z, target),
    "dlr": targeted_dlr,
}


def raised(name: str, logits: Tensor, goal: Tensor) -> Tensor:
    """The loss `name` that an attack raises, [B]: away from labels [B], or for pairs (label, target) [B, 2] to the target."""
    if goal.dim() == 1:
        return LOSSES[name](logits, goal)
    return TARGETED_LOSSES[name](logits, goal[:, 0], goal[:, 1])


def check_loss(name: str) -> str:
    """`name` if it is known; ConfigError otherwise."""
    if name not in LOSSES:
        raise ConfigError(f"Unknown loss {name!r}. Known: {', '.join(LOSSES)}.")
    return name
