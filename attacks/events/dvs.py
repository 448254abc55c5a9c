"""Attacks that need no gradient: events along edges, in corners and on dashes (Marchisio et al. 2021, DVS-Attacks)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.attacks.events.base import EventAttack, at_least
from trustsnn.attacks.events.changes import count_changes
from trustsnn.attacks.events.filters import activity
from trustsnn.attacks.events.oracle import Oracle
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class _Overlay(EventAttack):
    """Patterns of extra events are tried in order; each sample keeps the first that fools the model, and stays clean if none
    does. A pattern that would insert more than `budget` events into a sample is passed over. A place of the pattern gets one
    event more, where it has room for it."""

    white_box: ClassVar[bool] = False

    @abstractmethod
    def patterns(self, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """Patterns [T, 2, H, W] of 0 and 1 for samples of that shape, in the order in which they are tried."""

    def overlaid(self, x: Tensor, pattern: Tensor, most: int) -> Tensor:
        """The samples `x` [B, T, 2, H, W] with the pattern's events."""
        return (x + pattern.to(x)).clamp_max(most)

    def _run(self, oracle: Oracle, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        found = x.clone()
        alive = oracle.still_right(x) if self.budget != 0 else oracle.nobody
        for pattern in self.patterns(tuple(x.shape[1:])):
            if len(alive) == 0:
                break
            trial = self.overlaid(x[alive], pattern, oracle.most)
            changed = count_changes(x[alive], trial)
            allowed = changed > 0 if self.budget is None else (changed > 0) & (changed <= self.budget)
            rows, trial = alive[allowed], trial[allowed]
            fooled, _ = oracle.margins(trial, rows)
            found[rows[fooled]] = trial[fooled]
            alive = alive[~torch.isin(alive, rows[fooled])]
        return found, count_changes(x, found)


@dataclass(frozen=True, kw_only=True)
class FrameAttack(_Overlay):
    """Events on the whole border, at every step and of both polarities; then on a border of two pixels, up to `thickness`."""

    thickness: int = 1

    name: ClassVar[str] = "frame"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, thickness=self.thickness)

    def patterns(self, shape: tuple[int, ...]) -> Iterator[Tensor]:
        height, width = shape[2:]
        for thickness in range(1, min(self.thickness, (min(height, width) + 1) // 2) + 1):
            pattern = torch.ones(shape)
            pattern[..., thickness : height - thickness, thickness : width - thickness] = 0
            yield pattern


@dataclass(frozen=True, kw_only=True)
class CornerAttack(_Overlay):
    """Events at every step and of both polarities in one corner: two pixels of the first row, then a longer stretch, up to
    half of the row, in each of the four corners; then stretches that are `depth` rows deep at most."""

    depth: int = 1

    name: ClassVar[str] = "corner"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, depth=self.depth)

    def patterns(self, shape: tuple[int, ...]) -> Iterator[Tensor]:
        height, width = shape[2:]
        for depth in range(1, min(self.depth, height) + 1):
            for length in range(2, max(2, width // 2) + 1):
                for rows in (slice(0, depth), slice(height - depth, height)):
                    for columns in (slice(0, length), slice(width - length, width)):
                        pattern = torch.zeros(shape)
                        pattern[:, :, rows, columns] = 1
                        yield pattern


def _dashes(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Row, first column, direction and polarity of the dashes, from the edges inwards: rows at the top and the bottom, the
    outer eighth of them; columns from the left and from the right, up to the middle."""
    height, width = shape[2:]
    for row in range(max(1, height // 8)):
        for start in range(max(1, width // 2 - 1)):
            for left in (True, False):
                for line in (row, height - 1 - row):
                    yield line, start if left else width - 1 - start, 1 if left else -1, 1 if left else 0


@dataclass(frozen=True, kw_only=True)
class DashAttack(_Overlay):
    """A dash: two neighbouring pixels with events at every step and of both polarities, which moves in from the edges."""

    name: ClassVar[str] = "dash"

    def patterns(self, shape: tuple[int, ...]) -> Iterator[Tensor]:
        for row, column, direction, _ in _dashes(shape):
            pattern = torch.zeros(shape)
            pattern[:, :, row, [column, column + direction]] = 1
            yield pattern


@dataclass(frozen=True, kw_only=True)
class FilterAwareDash(_Overlay):
    """A dash of one polarity that runs on by two pixels every `most` steps, so that no pixel of it gets more than `most`
    events, those of the clean sample counted: a mask filter of that threshold lets it pass, and its pairs of pixels hold up
    each other before a background-activity filter."""

    most: int = 3

    name: ClassVar[str] = "filter-aware-dash"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, most=self.most)

    def patterns(self, shape: tuple[int, ...]) -> Iterator[Tensor]:
        width = shape[3]
        for row, column, direction, polarity in _dashes(shape):
            pattern = torch.zeros(shape)
            for step in range(shape[0]):
                head = column + 2 * direction * (step // self.most)
                for place in (head, head + direction):
                    if 0 <= place < width:
                        pattern[step, polarity, row, place] = 1
            yield pattern

    def overlaid(self, x: Tensor, pattern: Tensor, most: int) -> Tensor:
        added = super().overlaid(x, pattern, most) - x
        so_far = added.sum(2).cumsum(1)  # of each pixel up to each step; a pattern has one polarity a pixel
        fits = so_far <= (self.most - activity(x))[:, None]
        return x + added * fits[:, :, None].to(x)
