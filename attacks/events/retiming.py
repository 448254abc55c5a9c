"""Retiming: spikes move in time at their own site, and none is made or lost (Yu et al. 2026, arXiv 2602.03284)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.attacks.events.base import EventAttack, at_least
from trustsnn.attacks.events.changes import Candidates, Changes, by_promise, no_changes, test_alone, thin_out
from trustsnn.attacks.events.oracle import Oracle
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class Retiming(EventAttack):
    """Moves of single events from their step to another one of the same pixel and polarity.

    The threat is the paper's; the search is the one of SDA: at iteration n the `growth` * n moves that raise the margin the
    most to first order (g at the new step minus g at the old one) are tested alone, and those that do not lower it are made
    together. An event moves at most once, to a step that has room: one event a place on binary frames, max_count on counts.
    Under `budget` or `total` an iteration spends at most a tenth of it, so that the gradient is taken anew. Once the model
    is fooled, moves are taken back while it stays so. `changes` of the result counts the events that moved.

    Args:
        budget: the most events that may move (B0).
        furthest: the most steps that an event may move (B-inf); None for any.
        total: the most steps that all events may move together (B1); None for any.
        iterations: at most that many gradients.
        growth: candidates that each iteration adds.
    """

    furthest: int | None = None
    total: int | None = None
    iterations: int = 60
    growth: int = 10

    name: ClassVar[str] = "retiming"
    norm: ClassVar[str] = "moves"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, furthest=self.furthest or 0, total=self.total or 0)
        at_least(1, iterations=self.iterations, growth=self.growth)

    def _run(self, oracle: Oracle, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        found, home = x.clone(), x.clone()  # home: events that have not moved
        changes = [no_changes(2, x.device) for _ in x]
        alive = oracle.nobody if 0 in (self.budget, self.furthest, self.total) else oracle.still_right(x)
        fooled_rows: list[int] = []
        for iteration in range(1, self.iterations + 1):
            if len(alive) == 0:
                break
            _, before, gradient = oracle.gradient(found[alive], alive)
            chance = draws.select(alive.tolist()).child("iteration", iteration).uniform(tuple(x.shape[1:])).to(x.device)
            left = torch.tensor([self._left(changes[row], x)[1] for row in alive.tolist()], device=x.device)
            room = found[alive] < oracle.most
            which, source, target = _best_moves(
                gradient, home[alive] > 0, room, chance, left.clamp_max(self.furthest or len(x[0])), self.growth * iteration
            )
            rows, places = alive[which], torch.stack([source, target], 1)
            signs = torch.tensor([-1, 1], device=x.device).expand_as(places)
            gain = test_alone(oracle, found, Candidates(rows, places, signs)) - before[which]
            for row in alive.tolist():
                mine = ((rows == row) & (gain >= 0)).nonzero().squeeze(1)
                mine = mine[gain[mine].argsort(descending=True, stable=True)]
                made = mine[self._fitting(changes[row], x, found[row], home[row], places[mine], oracle.most)]
                changes[row].append(places[made], signs[made], gain[made])
                found[row] = changes[row].applied(x[row], slice(None))
                home[row].view(-1).index_add_(0, source[made], -torch.ones_like(source[made], dtype=x.dtype))
            fooled, _ = oracle.margins(found[alive], alive)
            fooled_rows += alive[fooled].tolist()
            able = torch.tensor([min(self._left(changes[row], x)) > 0 for row in alive.tolist()], device=x.device)
            alive = alive[~fooled & able]
        thin_out(oracle, x, changes, fooled_rows)
        found = torch.stack([own.applied(sample, slice(None)) for own, sample in zip(changes, x, strict=True)])
        return found, torch.tensor([len(own) for own in changes], device=x.device)

    def _left(self, changes: Changes, x: Tensor) -> tuple[int, int]:
        """What is left of the budgets: events, and steps."""
        steps = int((changes.places[:, 1] - changes.places[:, 0]).abs().sum()) // x[0, 0].numel()
        events = x[0].numel() if self.budget is None else self.budget - len(changes)
        return events, x[0].numel() * len(x[0]) if self.total is None else self.total - steps

    def _fitting(self, changes: Changes, x: Tensor, found: Tensor, home: Tensor, moves: Tensor, most: int) -> Tensor:
        """Which of the moves [N, 2], tried in order, can be made together within the capacity and this iteration's share."""
        events, steps = self._left(changes, x)
        events = events if self.budget is None else min(events, -(-self.budget // 10))
        steps = steps if self.total is None else min(steps, max(-(-self.total // 10), 1))
        source, target = moves.unbind(1)
        distance = ((target - source).abs() // x[0, 0].numel()).tolist()
        flat, at_home = found.flatten(), home.flatten()
        stays = dict(zip(source.tolist(), at_home[source].tolist(), strict=True))
        held = dict(zip(moves.flatten().tolist(), flat[moves.flatten()].tolist(), strict=True))
        taken, nothing_yet = [], True
        for index, (old, new) in enumerate(moves.tolist()):
            affordable = distance[index] <= steps or (nothing_yet and distance[index] <= self._left(changes, x)[1])
            if events < 1 or not affordable or stays[old] < 1 or held[new] >= most:
                continue
            taken.append(index)
            nothing_yet = False
            events, steps = events - 1, steps - distance[index]
            stays[old] -= 1
            held[old] -= 1
            held[new] += 1
        return torch.tensor(taken, dtype=torch.int64, device=x.device)


def _best_moves(
    gradient: Tensor, movable: Tensor, room: Tensor, chance: Tensor, furthest: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` most promising moves of each sample of a batch [B, T, 2, H, W], none further than `furthest` [B] steps:
    sample, old place and new place of each (places of the flattened sample), the best first for each sample."""
    batch, steps = gradient.shape[:2]
    site = gradient[0, 0].numel()
    g, movable, room, chance = (each.reshape(batch, steps, site) for each in (gradient, movable, room, chance))
    keys = torch.full((batch, 0), -torch.inf, device=g.device, dtype=g.dtype)
    sources = targets = torch.zeros((batch, 0), dtype=torch.int64, device=g.device)
    limit = min(int(furthest.max()), steps - 1)
    for offset in [sign * size for size in range(1, limit + 1) for sign in (-1, 1)]:
        first, last = max(0, -offset), steps - max(0, offset)
        gain = g[:, first + offset : last + offset] - g[:, first:last]
        possible = movable[:, first:last] & room[:, first + offset : last + offset] & (gain >= 0)
        possible &= (furthest >= abs(offset))[:, None, None]
        key = by_promise(gain, possible, chance[:, first:last]).flatten(1)
        source = torch.arange(first * site, last * site, device=g.device).expand_as(key)
        keys = torch.cat([keys, key], 1)
        best = keys.argsort(dim=1, descending=True, stable=True)[:, :count]
        keys = keys.gather(1, best)
        sources = torch.cat([sources, source], 1).gather(1, best)
        targets = torch.cat([targets, source + offset * site], 1).gather(1, best)
    which, column = torch.isfinite(keys).nonzero(as_tuple=True)
    return which, sources[which, column], targets[which, column]
