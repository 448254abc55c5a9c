"""Events inserted only, or deleted only: the places of the largest gradient first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.attacks.events.base import EventAttack, at_least
from trustsnn.attacks.events.changes import count_changes, unit_step
from trustsnn.attacks.events.oracle import Oracle
from trustsnn.rng import Draws

CAP = 1000


@dataclass(frozen=True, kw_only=True)
class _Greedy(EventAttack):
    """At each iteration the `per_step` places where one event more (or less) raises the margin the most to first order are
    changed, until the model is fooled, `budget` events (1,000 if not given) are changed, or no place promises anything.

    On binary frames an event is inserted where there is none and deleted where there is one; a count goes up or down by one,
    and again at a later iteration, within 0..max_count.
    """

    per_step: int = 5

    sign: ClassVar[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, per_step=self.per_step)

    def _run(self, oracle: Oracle, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        found = x.clone()
        left = CAP if self.budget is None else self.budget
        alive = oracle.still_right(x) if left > 0 else oracle.nobody
        while len(alive) > 0:
            fooled, _, gradient = oracle.gradient(found[alive], alive)
            step = unit_step(found[alive], gradient, oracle.most)
            promise = torch.where((gradient != 0) & (step == self.sign), gradient.abs(), 0.0).flatten(1)
            best = promise.argsort(dim=1, descending=True, stable=True)[:, : min(self.per_step, left)]
            moved = torch.where(promise.gather(1, best) > 0, float(self.sign), 0.0) * ~fooled[:, None]
            found[alive] = found[alive].flatten(1).scatter_add_(1, best, moved.to(x.dtype)).view_as(gradient)
            alive = alive[(moved != 0).any(1)]
            left -= min(self.per_step, left)
            if left == 0:
                break
        return found, count_changes(x, found)


@dataclass(frozen=True, kw_only=True)
class Insertion(_Greedy):
    __doc__ = f"Events are inserted only. {_Greedy.__doc__}"

    name: ClassVar[str] = "insertion"
    sign: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Deletion(_Greedy):
    __doc__ = f"Events are deleted only. {_Greedy.__doc__}"

    name: ClassVar[str] = "deletion"
    sign: ClassVar[int] = -1
