"""An event camera that looks at a still image during N-MNIST's three saccades (the ESIM model)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustsnn.data.problems import problem
from trustsnn.errors import ConfigError

MOVE_US = 105_000
DURATION_US = 3 * MOVE_US
# In units of C. An intensity that returns to where it was must count as there, whatever the last bit of its rounding says.
TOLERANCE = 1e-9
EVENT = np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "<i1")])


@dataclass(frozen=True)
class Camera:
    """How a pixel makes events: its contrast threshold C, the eps of ln(eps + I), and its dead time after an event.

    The defaults give about 4,300 events for an MNIST digit.
    """

    contrast: float = 0.5
    eps: float = 0.1
    refractory_us: int = 1000

    def __post_init__(self) -> None:
        if not (math.isfinite(self.contrast) and self.contrast > 0 and math.isfinite(self.eps) and self.eps > 0):
            raise ConfigError(
                f"Camera: expected contrast and eps above 0, got {self.contrast} and {self.eps}. Typical: 0.5 and 0.1."
            )
        if self.refractory_us < 1:
            raise ConfigError(
                f"Camera: expected refractory_us of 1 or more (it bounds the counts), got {self.refractory_us}. Typical: 1000."
            )

    def max_count(self, frames: int) -> int:
        """The most events that one pixel and polarity can make in one of `frames` frames."""
        return -(-DURATION_US // frames) // self.refractory_us + 1


class Saccades(NamedTuple):
    """The moves in whole cells: canvas [H, W], frames per move, offsets [3 * steps + 1, 2] of the image (x, y) in pixels."""

    canvas: tuple[int, int]
    steps: int
    offsets: NDArray[np.float64]
    cell: int


def saccades(height: int, width: int) -> Saccades:
    """The path (0, 0) -> (r/2, r) -> (r, 0) -> (0, 0), r a quarter of the image: 7 px on a 34 x 34 canvas for 28 x 28.

    A move has at least 105 rendered frames (1 kHz), and as many as it takes for a frame to lie on every crossing of a whole
    pixel: between two crossings, `cell` frames apart, an image moves inside one cell of its bilinear interpolation.
    """
    reach = (max(1, round(width / 4)), max(1, round(height / 4)))
    common = math.lcm(*reach)
    steps = common * -(-105 // common)
    canvas = (round(height * 34 / 28), round(width * 34 / 28))
    half = np.arange(steps) / steps
    x = np.concatenate([half / 2, 0.5 + half / 2, 1 - half, [0.0]]) * reach[0]
    y = np.concatenate([half, 1 - half, np.zeros(steps), [0.0]]) * reach[1]
    return Saccades(canvas, steps, np.stack([x, y], axis=1), steps // common)


def simulate(image: NDArray[Any], camera: Camera | None = None) -> NDArray[np.void]:
    """The events of one grey image [H, W] in [0, 1]: fields x, y, t (us), p (1 brighter, 0 darker), sorted by time.

    ESIM (Rebecq et al. 2018): the pixel's log intensity L = ln(eps + I) is linear between rendered frames; each time it is C
    away from the pixel's reference, the reference steps by C and an event is made at that instant, unless the last event of
    the pixel is nearer than the dead time: then the event is dropped and the reference steps all the same.
    """
    images = _checked(np.asarray(image)[None])
    path = saccades(*images.shape[1:])
    pieces = list(_events(images, path, camera or Camera()))
    pixel, time, polarity = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    events = np.empty(len(pixel), dtype=EVENT)
    events["y"], events["x"] = np.divmod(pixel, path.canvas[1])
    events["t"], events["p"] = time, polarity
    return events[np.lexsort((events["p"], events["x"], events["y"], events["t"]))]


def simulate_frames(
    images: NDArray[Any], frames: int = 10, *, counts: bool = False, camera: Camera | None = None
) -> NDArray[np.uint16]:
    """Event frames uint16 [B, T, 2, H', W'] of grey images [B, H, W] in [0, 1]; 0 and 1, or the counts.

    A frame holds the events of one T-th of the recording; channel 0 is darker (OFF), 1 is brighter (ON).
    """
    if frames < 1 or frames > DURATION_US:
        raise ConfigError(f"event frames: expected 1 to {DURATION_US} frames, got {frames}. Typical: 10.")
    images = _checked(images)
    path = saccades(*images.shape[1:])
    size = path.canvas[0] * path.canvas[1]
    places = []
    for pixel, time, polarity in _events(images, path, camera or Camera()):
        sample, place = np.divmod(pixel, size)
        places.append(((sample * frames + frame_of(time, frames)) * 2 + polarity) * size + place)
    total = np.bincount(np.concatenate(places), minlength=len(images) * frames * 2 * size)
    kept = total if counts else np.minimum(total, 1)
    return kept.astype(np.uint16).reshape(len(images), frames, 2, *path.canvas)


def frame_of(time: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """The frame that an instant (us) falls in; the very end belongs to the last one."""
    return np.minimum(time * frames // DURATION_US, frames - 1)


def _events(
    images: NDArray[np.float64], path: Saccades, camera: Camera
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Pieces (pixel of the batch of canvases, t in us, polarity) in the order of the rendered frames."""
    count, height, width = images.shape
    rows, columns = path.canvas
    margin = 1 + int(path.offsets.max())
    padded = np.zeros((count, rows + margin, columns + margin))
    padded[:, margin : margin + height, margin : margin + width] = images[:, :rows, :columns]
    start = np.log(camera.eps + padded[:, margin:, margin:]).reshape(-1)
    level = np.zeros(start.size)
    last = np.full(start.size, -camera.refractory_us, dtype=np.int64)
    yield (np.zeros(0, np.int64),) * 3
    for first in range(0, 3 * path.steps, path.cell):
        offsets = path.offsets[first : first + path.cell + 1]
        x, y = np.floor(offsets.min(axis=0)).astype(int)
        corners = [
            padded[:, margin - y - j : margin - y - j + rows, margin - x - i : margin - x - i + columns].reshape(-1)
            for j in (0, 1)
            for i in (0, 1)
        ]
        base = corners[0]
        moving = np.flatnonzero((corners[1] != base) | (corners[2] != base) | (corners[3] != base))
        a, b, c, d = (corner[moving] for corner in corners)
        fx, fy = (offsets - (x, y)).T[:, :, None]
        intensity = a + fx * (b - a) + fy * (c - a) + (fx * fy) * (a - b - c + d)
        height_in_c = (np.log(camera.eps + intensity) - start[moving]) / camera.contrast
        yield from _crossings(height_in_c, moving, level, last, first * MOVE_US / path.steps, path, camera)


def _crossings(
    height: NDArray[np.float64],
    moving: NDArray[np.int64],
    level: NDArray[np.float64],
    last: NDArray[np.int64],
    start_us: float,
    path: Saccades,
    camera: Camera,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Step `level` (the references, in C above the start) along `height` [frames, moving] and emit; both are kept up to date."""
    step_us = MOVE_US / path.steps
    floors, ceilings = np.floor(height + TOLERANCE), np.ceil(height - TOLERANCE)
    reference = level[moving]
    for frame in range(1, len(height)):
        reached = np.minimum(np.maximum(reference, floors[frame]), ceilings[frame])
        changed = np.flatnonzero(reached != reference)
        if not changed.size:
            continue
        before, jump = reference[changed], reached[changed] - reference[changed]
        direction = np.sign(jump)
        low, rise = height[frame - 1, changed], height[frame, changed] - height[frame - 1, changed]
        places, left = moving[changed], np.abs(jump)
        crossing = before
        while places.size:
            crossing = crossing + direction
            share = np.clip(np.divide(crossing - low, rise, out=np.ones_like(rise), where=rise != 0), 0.0, 1.0)
            time = np.rint(start_us + (frame - 1 + share) * step_us).astype(np.int64)
            alive = time - last[places] >= camera.refractory_us
            emitted = places[alive]
            last[emitted] = time[alive]
            yield emitted, time[alive], (direction[alive] > 0).astype(np.int64)
            more = left > 1
            if not more.any():
                break
            places, left, crossing, direction, low, rise = (
                values[more] for values in (places, left - 1, crossing, direction, low, rise)
            )
        reference = reached
    level[moving] = reference


def _checked(images: NDArray[Any]) -> NDArray[np.float64]:
    values = np.asarray(images, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise problem("event simulation", "grey images [B, H, W]", f"shape {list(values.shape)}", "Pass one channel.")
    good = ((values >= 0) & (values <= 1)).reshape(len(values), -1).all(axis=1)
    if not good.all():
        raise problem(
            f"event simulation, image {int(np.argmin(good))}",
            "intensities in [0, 1]",
            "NaN or a value outside",
            "Scale or clean the image.",
        )
    return values
