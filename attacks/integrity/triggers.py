"""Triggers of backdoors after Sneaky Spikes (Abad, NDSS 2024, arXiv 2302.06279): patches that stand, move, or lie where the data says.

A trigger is plain settings. Made for a data set it is a `Stamp`, which writes it into samples and keeps their domain: images stay
in [0, 1], binary events binary, counts whole numbers of 0..max_count.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trustsnn.attacks.integrity.catalogue import TRIGGERS
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.settings import check_choice, check_settings, setting, with_settings
from trustsnn.settings import parse as parse_line

PLACES = ("top-left", "top-right", "bottom-left", "bottom-right", "middle")
POLARITIES = {"none": (0, 0), "off": (1, 0), "on": (0, 1), "both": (1, 1)}  # events of the channels OFF and ON
SEEN = 1000  # samples at most that say where the data is active

Samples = NDArray[np.float32]


class Stamp(Protocol):
    """A trigger, made for a data set."""

    def __call__(self, x: Samples, ids: Sequence[str]) -> Samples:
        """Samples [B, ...] with the trigger; `x` stays as it is. A sample's result depends on it and its id alone."""

    def describe(self) -> dict[str, Any]:
        """Plain values that decide what it does."""


@dataclass(frozen=True, kw_only=True)
class Trigger(ABC):
    """Settings of a trigger."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_settings(self, f"trigger {self.name!r}")

    @abstractmethod
    def made(self, data: Dataset, target: int, seed: int = 0) -> Stamp:
        """The trigger for samples such as those of `data`. Those that learn do it from them, so give the training samples.

        Raises:
            ConfigError: it does not fit into a sample.
        """

    def describe(self) -> dict[str, Any]:
        """Name and settings."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Patch:
    """The stamp of a square of `size` pixels. With several `corners` (row, column of the upper left) time step t of events has the corner
    t modulo their number, and an image the one that the SHA-256 of its id says. `fill` is the value of every channel, or of OFF and ON."""

    trigger: dict[str, Any]
    size: int
    corners: tuple[tuple[int, int], ...]
    fill: tuple[float, ...]

    def __call__(self, x: Samples, ids: Sequence[str]) -> Samples:
        found = x.copy()
        number = len(self.corners)
        fill = np.array(self.fill, dtype=np.float32)[:, None, None]
        drawn = np.array([int.from_bytes(hashlib.sha256(each.encode()).digest()[:8]) % number for each in ids], dtype=np.int64)
        for place, (row, column) in enumerate(self.corners):
            part = found[:, place::number] if x.ndim == 5 else found
            rows = np.arange(len(x)) if x.ndim == 5 else np.flatnonzero(drawn == place)
            part[rows, ..., row : row + self.size, column : column + self.size] = fill
        return found

    def describe(self) -> dict[str, Any]:
        return {**self.trigger, "corners": [list(each) for each in self.corners], "fill": list(self.fill)}


@dataclass(frozen=True, kw_only=True)
class Static(Trigger):
    """A patch at one place, the same at every time step.

    Args:
        size: pixels a side.
        place: one of `PLACES`.
        value: of an image's patch; of counts the share of the largest count, rounded.
        polarity: of an event patch, one of `POLARITIES`.
    """

    size: int = setting(3, 1)
    place: str = "bottom-right"
    value: float = setting(1.0, 0.0, 1.0)
    polarity: str = "on"

    name: ClassVar[str] = "static"

    def __post_init__(self) -> None:
        super().__post_init__()
        called = f"trigger {self.name!r}"
        check_choice(called, "place", self.place, PLACES)
        check_choice(called, "polarity", self.polarity, tuple(POLARITIES))

    def made(self, data: Dataset, target: int, seed: int = 0) -> Stamp:
        return Patch(self.describe(), self.size, (corner(data, self.size, self.place),), self._fill(data))

    def _fill(self, data: Dataset) -> tuple[float, ...]:
        return events_fill(data, self.polarity, self.value) if data.domain != "image" else (self.value,)


@dataclass(frozen=True, kw_only=True)
class Moving(Static):
    """A patch that moves along its row, `stride` pixels a time step, from its place to the other edge and again. An image is one constant
    picture: there the patch stands at a place of that path that the sample's id draws.

    Args:
        stride: pixels a time step.
        size, place, value, polarity: as of `Static`.
    """

    stride: int = setting(1, 1)

    name: ClassVar[str] = "moving"

    def made(self, data: Dataset, target: int, seed: int = 0) -> Stamp:
        row, column = corner(data, self.size, self.place)
        last = data.sample_shape[-1] - self.size
        path = range(column, -1, -self.stride) if self.place.endswith("right") else range(column, last + 1, self.stride)
        return Patch(self.describe(), self.size, tuple((row, each) for each in path), self._fill(data))


@dataclass(frozen=True, kw_only=True)
class Smart(Trigger):
    """A patch whose place and value the data choose: the window of its size with the least (or most) activity, the first of several, and
    there of the polarities (none, OFF, ON, both) the rarest, or of an image 0 or 1, whichever is further from the mean.

    The paper moves the patch at random inside the best of some cells; this one stands.

    Args:
        size: pixels a side.
        where: "least" or "most" active; the mean value of an image, the mean number of events.
        value: as of `Static`, of counts.
    """

    size: int = setting(3, 1)
    where: str = "least"
    value: float = setting(1.0, 0.0, 1.0)

    name: ClassVar[str] = "smart"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"trigger {self.name!r}", "where", self.where, ("least", "most"))

    def made(self, data: Dataset, target: int, seed: int = 0) -> Stamp:
        corner(data, self.size, "top-left")
        some = data.take(SEEN)
        x = some.batch(np.arange(len(some)))[0]
        activity = x.reshape(-1, *x.shape[-2:]).mean(0, dtype=np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(activity, (self.size, self.size)).sum((2, 3)).round(9)
        best = windows.argmin() if self.where == "least" else windows.argmax()
        row, column = (int(each) for each in np.unravel_index(best, windows.shape))
        there = x[..., row : row + self.size, column : column + self.size]
        if data.domain == "image":
            fill: tuple[float, ...] = (0.0,) if there.mean(dtype=np.float64) > 0.5 else (1.0,)
        else:
            off, on = there[:, :, 0] > 0, there[:, :, 1] > 0
            counts = {name: int(((off == bool(one)) & (on == bool(two))).sum()) for name, (one, two) in POLARITIES.items()}
            fill = events_fill(data, min(counts, key=counts.__getitem__), self.value)
        return Patch(self.describe(), self.size, ((row, column),), fill)


def corner(data: Dataset, size: int, place: str) -> tuple[int, int]:
    """Row and column of the upper left pixel of a square at a place. ConfigError where it is no smaller than the sample."""
    height, width = data.sample_shape[-2:]
    if size >= min(height, width):
        raise ConfigError(f"Expected a trigger smaller than the samples of {data.name} ({height} x {width}), got size {size}.")
    if place == "middle":
        return (height - size) // 2, (width - size) // 2
    return (0 if place.startswith("top") else height - size), (0 if place.endswith("left") else width - size)


def events_fill(data: Dataset, polarity: str, value: float) -> tuple[float, ...]:
    """Events of OFF and ON at each pixel of a patch: 1, or of counts the share `value` of the largest, at least 1."""
    most = 1 if data.max_count is None else max(1, round(value * data.max_count))
    return tuple(float(most * each) for each in POLARITIES[polarity])


def trigger(name: str, **settings: Any) -> Trigger:
    """The trigger called `name` with these settings; those that are not given are its own.

    Raises:
        ConfigError: no such trigger, no such setting, or a value out of its range.
    """
    found = with_settings("trigger", name, TRIGGERS.load(name), settings)
    if not isinstance(found, Trigger):
        raise ConfigError(f"Expected {name!r} to be a Trigger, got {type(found).__name__}.")
    return found


def parse(text: str) -> Trigger:
    """The trigger of a line such as "static", "moving:size=2:place=top-left" or "dynamic:eps=8/255"."""
    name, settings = parse_line(text, "static:size=3:place=top-left")
    return trigger(name, **settings)
