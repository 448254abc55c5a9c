"""Sets of small changes to event frames: applied, tested one at a time, and thinned out.

A change adds +1 or -1 at a few places of a flattened sample: one place for an event inserted or deleted, two for an event
that moves. The changes of a sample are its `Changes`, and the sample is then the clean one plus those that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trustsnn.attacks.events.oracle import Oracle

CHUNK = 512  # candidates that are built at a time: it bounds the memory and changes no result


def count_changes(x: Tensor, adversarial: Tensor) -> Tensor:
    """Events inserted and deleted in each sample, int64 [B]."""
    return (adversarial - x).abs().flatten(1).sum(1, dtype=torch.float64).round().long()


def unit_step(x: Tensor, gradient: Tensor, most: int) -> Tensor:
    """-1, 0 or 1 a place: the change by one event that raises the loss to first order and stays in 0..most, and 0 where there
    is none. On binary frames it is the flip where (1 - 2x) g >= 0. A zero gradient takes whichever is possible."""
    step = torch.where(gradient == 0, torch.where(x < most, 1.0, -1.0).to(x.dtype), gradient.sign())
    return step * ((x + step >= 0) & (x + step <= most))


def by_promise(gain: Tensor, possible: Tensor, chance: Tensor) -> Tensor:
    """A key [B, N] to sort candidates by, the best largest: by `gain` >= 0, those of no gain by `chance` in [0, 1) after all
    others, and minus infinity for the impossible."""
    return torch.where(gain > 0, gain, chance - 1).masked_fill(~possible, -torch.inf)


class Candidates(NamedTuple):
    """Changes to test: the sample of the batch [N], and places and signs [N, m] in it."""

    rows: Tensor
    places: Tensor
    signs: Tensor


def test_alone(oracle: Oracle, x: Tensor, candidates: Candidates) -> Tensor:
    """The margin [N] of a sample of the batch `x` after each candidate alone."""
    margins = []
    for start in range(0, len(candidates.rows), CHUNK):
        rows, places, signs = (each[start : start + CHUNK] for each in candidates)
        trial = x[rows].flatten(1).scatter_add_(1, places, signs.to(x.dtype))
        margins.append(oracle.margins(trial.view(-1, *x.shape[1:]), rows)[1])
    return torch.cat(margins) if margins else torch.zeros(0, dtype=torch.float64, device=x.device)


@dataclass
class Changes:
    """The changes of one sample, weakest first after `sort`: places and signs [N, m], and how far each raised the margin [N]."""

    places: Tensor
    signs: Tensor
    gains: Tensor

    def append(self, places: Tensor, signs: Tensor, gains: Tensor) -> None:
        """Add some more."""
        self.places, self.signs = torch.cat([self.places, places]), torch.cat([self.signs, signs])
        self.gains = torch.cat([self.gains, gains])

    def sort(self) -> None:
        """Order them by gain, weakest first."""
        self.keep(self.gains.argsort(stable=True))

    def keep(self, which: Tensor | slice) -> None:
        """Leave only those at `which`, an index or a mask."""
        self.places, self.signs, self.gains = self.places[which], self.signs[which], self.gains[which]

    def applied(self, x: Tensor, which: Tensor | slice) -> Tensor:
        """The sample `x` with the changes at `which`. Whole numbers add exactly in any order."""
        flat = x.flatten().index_add(0, self.places[which].flatten(), self.signs[which].flatten().to(x.dtype))
        return flat.view(x.shape)

    def __len__(self) -> int:
        return len(self.gains)


def no_changes(width: int, device: torch.device) -> Changes:
    """An empty set of changes of `width` places each."""
    places = torch.zeros((0, width), dtype=torch.int64, device=device)
    return Changes(places, places.clone(), torch.zeros(0, dtype=torch.float64, device=device))


def thin_out(oracle: Oracle, x: Tensor, changes: list[Changes], rows: list[int]) -> None:
    """Drop changes of samples `rows` of the batch `x` while the model stays fooled.

    First as many of the weakest as a binary search finds (Lun et al. 2025), then one at a time, weakest first, in sweeps
    until none can be spared. The samples go in step, so that each test is one batch.
    """
    for row in rows:
        changes[row].sort()
    low = dict.fromkeys(rows, 0)
    high = {row: len(changes[row]) for row in rows}
    while searched := [row for row in rows if low[row] < high[row]]:
        middle = {row: (low[row] + high[row] + 1) // 2 for row in searched}
        for row, fooled in _fools(oracle, x, [(row, changes[row], slice(middle[row], None)) for row in searched]):
            if fooled:
                low[row] = middle[row]
            else:
                high[row] = middle[row] - 1
    for row in rows:
        changes[row].keep(slice(low[row], None))
    while rows:
        rows = _sweep(oracle, x, changes, rows)


def _sweep(oracle: Oracle, x: Tensor, changes: list[Changes], rows: list[int]) -> list[int]:
    """Drop what can be dropped alone, weakest first; the rows where something was."""
    kept = {row: torch.ones(len(changes[row]), dtype=torch.bool, device=x.device) for row in rows}
    for place in range(max(len(changes[row]) for row in rows)):
        trials = []
        for row in rows:
            if place < len(changes[row]):
                without = kept[row].clone()
                without[place] = False
                trials.append((row, changes[row], without))
        for row, fooled in _fools(oracle, x, trials):
            kept[row][place] = not fooled
    for row in rows:
        changes[row].keep(kept[row])
    return [row for row in rows if not kept[row].all()]


def _fools(oracle: Oracle, x: Tensor, trials: Sequence[tuple[int, Changes, Tensor | slice]]) -> list[tuple[int, bool]]:
    """Whether each trial (row, its changes, which of them) fools the model; one that is no valid sample does not."""
    made = [(row, changes.applied(x[row], which)) for row, changes, which in trials]
    valid = [(row, sample) for row, sample in made if sample.min() >= 0 and sample.max() <= oracle.most]
    if not valid:
        return [(row, False) for row, _ in made]
    fooled, _ = oracle.margins(torch.stack([s for _, s in valid]), torch.tensor([row for row, _ in valid], device=x.device))
    answers = dict(zip([row for row, _ in valid], fooled.tolist(), strict=True))
    return [(row, answers.get(row, False)) for row, _ in made]
