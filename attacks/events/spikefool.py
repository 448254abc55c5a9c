"""SpikeFool: few flips towards the nearest linearised boundary (Buechel et al. 2022, after SparseFool, Modas et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.attacks.events.base import EventAttack, at_least
from trustsnn.attacks.events.changes import count_changes
from trustsnn.attacks.events.oracle import Oracle
from trustsnn.rng import Draws

CAP = 1000
OVERSHOOT = 0.02  # DeepFool's (Moosavi-Dezfooli et al. 2016)


@dataclass(frozen=True, kw_only=True)
class SpikeFool(EventAttack):
    """DeepFool on the relaxed frames gives a point beyond the boundary and the normal w there; from the events, the places of
    the largest |w| are flipped in the direction of w until a hyperplane `reach` times as far away as that point is crossed.
    The result is the next start, until the model is fooled or more than `budget` (1,000 if not given) events would change.

    A count changes by as many events as the hyperplane asks for and 0..max_count has room for.

    Args:
        reach: the paper's lambda, at least 1: a larger one needs fewer rounds and more flips.
        iterations: rounds of DeepFool and flips.
        inner: steps of each DeepFool.
        rivals: classes of the largest logits that DeepFool looks at besides the label.
    """

    reach: float = 2.0
    iterations: int = 20
    inner: int = 10
    rivals: int = 9

    name: ClassVar[str] = "spikefool"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, reach=self.reach, iterations=self.iterations, inner=self.inner, rivals=self.rivals)

    def _run(self, oracle: Oracle, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        found = x.clone()
        cap = CAP if self.budget is None else self.budget
        alive = oracle.still_right(x) if cap > 0 else oracle.nobody
        for _ in range(self.iterations):
            if len(alive) == 0:
                break
            boundary, normal = self._boundary(oracle, found[alive], alive)
            need = self.reach * _dot(normal, boundary - found[alive])
            moved = _cross(found[alive], normal, need, oracle.most)
            changed = count_changes(x[alive], moved)
            good = (changed <= cap) & (moved != found[alive]).flatten(1).any(1)
            alive, moved = alive[good], moved[good]
            found[alive] = moved
            alive = alive[~oracle.margins(moved, alive)[0]]
        return found, count_changes(x, found)

    def _boundary(self, oracle: Oracle, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """For each sample the point of the relaxed frames that DeepFool reaches, and the gradient of the lead of the strongest
        rival there."""
        point = x.clone()
        logits = oracle.logits(x, rows)
        rivals = _others(logits, oracle.y[rows]).argsort(dim=1, descending=True, stable=True)
        rivals = rivals[:, : min(self.rivals, logits.shape[1] - 1)]
        left = torch.arange(len(x), device=x.device)
        for _ in range(self.inner):
            if len(left) == 0:
                break
            each = left.repeat_interleave(rivals.shape[1])
            logits, lead, gradient = oracle.lead_gradient(point[each], rows[each], rivals[left].flatten())
            square = _dot(gradient, gradient)
            distance = torch.where(square > 0, lead.abs() / square.sqrt(), torch.inf).view(len(left), -1)
            nearest = distance.argmin(1) + torch.arange(len(left), device=x.device) * rivals.shape[1]
            wrong = logits[nearest].argmax(1) != oracle.y[rows[left]]
            moves = ~wrong & torch.isfinite(distance.amin(1))
            left, nearest = left[moves], nearest[moves]
            length = (1 + OVERSHOOT) * (lead[nearest].abs() + 1e-4) / square[nearest]
            point[left] += length.to(x.dtype).view(-1, 1, 1, 1, 1) * gradient[nearest]
        logits = oracle.logits(point, rows)
        _, _, normal = oracle.lead_gradient(point, rows, _others(logits, oracle.y[rows]).argmax(1))
        return point, normal


def _others(logits: Tensor, y: Tensor) -> Tensor:
    return logits.scatter(1, y[:, None], -torch.inf)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, in double precision; one at a time, so that it does not depend on the batch."""
    if len(a) == 0:
        return torch.zeros(0, dtype=torch.float64, device=a.device)
    return torch.stack([(u.double() * v.double()).sum() for u, v in zip(a, b, strict=True)])


def _cross(x: Tensor, normal: Tensor, need: Tensor, most: int) -> Tensor:
    """`x` [B, ...] after the fewest events inserted or deleted along `normal`, the largest |normal| first, that add `need` [B]
    to their inner product with it; at least one where there is room."""
    weight, start = normal.flatten(1).double(), x.flatten(1).double()
    room = torch.where(weight > 0, most - start, torch.where(weight < 0, start, 0.0))
    order = torch.where(room > 0, weight.abs(), 0.0).argsort(dim=1, descending=True, stable=True)
    size, free = weight.abs().gather(1, order), room.gather(1, order)
    before = (size * free).cumsum(1) - size * free
    wanted = torch.where(size > 0, ((need[:, None] - before) / size.clamp_min(1e-300)).ceil(), 0.0)
    wanted[:, 0].clamp_min_(1)
    amount = torch.minimum(wanted.clamp_min(0), free)
    moved = start.scatter_add(1, order, amount * weight.gather(1, order).sign())
    return moved.to(x.dtype).view_as(x)
