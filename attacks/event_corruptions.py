"""Natural corruptions of event frames [B, T, 2, H, W]: what sensors and links do to events, at five severities.

The kinds follow the sensor model v2e (Hu 2021, arXiv 2006.07722) and tonic's augmentations; the constants of the severities
are trustsnn's own. Binary frames stay in {0, 1}, counts stay whole numbers from 0 to `max_count`: what would exceed the
ceiling of its place and step is lost, as it is in a frame. Each sample draws from its own stream, the same at every severity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from trustsnn.attacks.corruptions.base import check_draws, check_severity
from trustsnn.errors import DataError
from trustsnn.rng import Draws, stream

Events = NDArray[np.int64]
"""Events [N, 4]: step, polarity, row and column of each."""

Shape = tuple[int, int, int, int]


def _event_corruption(name: str, constants: Sequence[float]) -> Callable[[Callable[..., Events]], Callable[..., Tensor]]:
    """Make `corrupt(x, severity, draws, max_count=None)` of a function of one sample's events, its shape (T, 2, H, W), the
    constant of the severity and a random generator. Without `max_count` frames are binary."""

    def wrap(one: Callable[..., Events]) -> Callable[..., Tensor]:
        def corrupt(x: Tensor, severity: int, draws: Draws, max_count: int | None = None) -> Tensor:
            check_severity(severity)
            ceiling = 1 if max_count is None else max_count
            _check_frames(x, name, ceiling)
            check_draws(x, draws)
            frames = x.detach().cpu().numpy().astype(np.int64)
            result = np.empty(frames.shape, dtype=np.float32)
            for row, sample_id in enumerate(draws.ids):
                events = np.repeat(np.argwhere(frames[row]), frames[row][frames[row] > 0], axis=0)
                generator: Generator = stream(draws.seed, f"{draws.task}/{name}", sample_id)
                changed = one(events, frames.shape[1:], constants[severity - 1], generator)
                places = np.ravel_multi_index(tuple(changed.T), frames.shape[1:])
                counts = np.bincount(places, minlength=frames[row].size)
                result[row] = np.minimum(counts, ceiling).reshape(frames.shape[1:])
            return torch.from_numpy(result).to(x.device, x.dtype)

        corrupt.__name__ = corrupt.__qualname__ = one.__name__
        corrupt.__module__, corrupt.__doc__ = one.__module__, one.__doc__
        return corrupt

    return wrap


def _check_frames(x: Tensor, name: str, ceiling: int) -> None:
    if not isinstance(x, Tensor) or x.dim() != 5 or x.shape[2] != 2 or 0 in x.shape:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"Expected event frames [B, T, 2, H, W] for the corruption {name!r}, got {got}.")
    if not torch.isfinite(x).all() or (x != x.round()).any() or float(x.min()) < 0 or float(x.max()) > ceiling:
        raise DataError(
            f"Expected whole numbers of events from 0 to {ceiling} for the corruption {name!r}, got values in "
            f"[{float(x.min()):.4g}, {float(x.max()):.4g}]. For frames of counts give their max_count."
        )


@_event_corruption("event-drop", (0.1, 0.2, 0.35, 0.5, 0.7))
def event_drop(events: Events, shape: Shape, lost: float, generator: Generator) -> Events:
    """Each event is lost with a probability, as on an overloaded bus."""
    return events[generator.random(len(events)) >= lost]


@_event_corruption("event-jitter", (0.5, 0.75, 1.0, 1.5, 2.5))
def event_jitter(events: Events, shape: Shape, deviation: float, generator: Generator) -> Events:
    """Each event moves in time by a normal number of steps, rounded, within the recording."""
    moved = events.copy()
    moved[:, 0] += np.rint(deviation * generator.standard_normal(len(events))).astype(np.int64)
    moved[:, 0] = moved[:, 0].clip(0, shape[0] - 1)
    return moved


@_event_corruption("hot-pixels", (0.002, 0.005, 0.01, 0.02, 0.04))
def hot_pixels(events: Events, shape: Shape, fraction: float, generator: Generator) -> Events:
    """A fraction of the pixels, and at least one, fires once at every step, each in one polarity."""
    steps, _, height, width = shape
    order, polarity = generator.permutation(height * width), generator.integers(0, 2, height * width)
    hot = order[: max(1, round(fraction * height * width))]
    rows, columns = np.divmod(np.tile(hot, steps), width)
    return np.concatenate(
        [events, np.stack([np.repeat(np.arange(steps), len(hot)), np.tile(polarity[hot], steps), rows, columns], 1)]
    )


@_event_corruption("background-activity", (0.002, 0.005, 0.01, 0.02, 0.05))
def background_activity(events: Events, shape: Shape, rate: float, generator: Generator) -> Events:
    """Every pixel, polarity and step has one event more with a probability: leak and shot noise."""
    return np.concatenate([events, np.argwhere(generator.random(shape) < rate)])


@_event_corruption("polarity-flip", (0.05, 0.1, 0.2, 0.3, 0.5))
def polarity_flip(events: Events, shape: Shape, flipped: float, generator: Generator) -> Events:
    """Each event has the other polarity with a probability."""
    changed = events.copy()
    changed[:, 1] ^= generator.random(len(events)) < flipped
    return changed
