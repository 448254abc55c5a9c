"""SDA: the sparse dynamic attack on event frames (Lun et al. 2025, CVPR, arXiv 2503.03272)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.attacks.events.base import EventAttack, at_least
from trustsnn.attacks.events.changes import Candidates, by_promise, count_changes, no_changes, test_alone, thin_out, unit_step
from trustsnn.attacks.events.oracle import Oracle
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class SDA(EventAttack):
    """Few flips, each tested: at iteration n the `growth` * n places of the largest gradient that are not selected yet and
    whose flip raises the margin to first order are tested alone; those that do not lower it are flipped together.

    Once the model is fooled, flips are dropped, the weakest first, while it stays so. Under a budget the search itself is
    free, and a sample whose thinned-out flips are still too many keeps the strongest of them: it counts as failed unless
    those do. Counts change by one event a place.

    Args:
        iterations: at most that many gradients.
        growth: candidates that each iteration adds (the paper's k_init, 10).
    """

    iterations: int = 100
    growth: int = 10

    name: ClassVar[str] = "sda"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, iterations=self.iterations, growth=self.growth)

    def _run(self, oracle: Oracle, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        found = x.clone()
        alive = oracle.still_right(x) if self.budget != 0 else oracle.nobody
        selected = torch.zeros_like(x, dtype=torch.bool).flatten(1)
        changes = [no_changes(1, x.device) for _ in x]
        fooled_rows: list[int] = []
        for iteration in range(1, self.iterations + 1):
            if len(alive) == 0:
                break
            _, before, gradient = oracle.gradient(found[alive], alive)
            step = unit_step(found[alive], gradient, oracle.most).flatten(1)
            chance = draws.select(alive.tolist()).child("iteration", iteration).uniform((step.shape[1],)).to(x.device)
            key = by_promise(gradient.flatten(1).abs(), (step != 0) & ~selected[alive], chance)
            best = key.argsort(dim=1, descending=True, stable=True)[:, : self.growth * iteration]
            which, column = torch.isfinite(key.gather(1, best)).nonzero(as_tuple=True)
            places = best[which, column]
            candidates = Candidates(alive[which], places[:, None], step[which, places][:, None])
            gain = test_alone(oracle, found, candidates) - before[which]
            kept = gain >= 0
            rows, places, signs, gain = alive[which][kept], places[kept], candidates.signs[kept], gain[kept]
            selected[rows, places] = True
            for row in rows.unique().tolist():
                here = rows == row
                changes[row].append(places[here][:, None], signs[here].long(), gain[here])
                found[row] = changes[row].applied(x[row], slice(None))
            fooled, _ = oracle.margins(found[alive], alive)
            fooled_rows += alive[fooled].tolist()
            alive = alive[~fooled]
        thin_out(oracle, x, changes, fooled_rows)
        for row, own in enumerate(changes):
            own.sort()
            first = max(0, len(own) - self.budget) if self.budget is not None else 0
            found[row] = own.applied(x[row], slice(first, None))
        return found, count_changes(x, found)
