"""Who owns which samples, as an inline SVG: a circle for each client and class, and above it a bar for all that the client owns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trustsnn.reports.charts import _NARROW, INK, LINE, MUTED, PAPER, REST, SERIES, _short, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST = 13  # CSS pixels from a client to the next
_BAR = 34  # height of the highest bar
_GAP = -0.9  # where bars begin, in rows above the first
_FEW = 58  # from this pitch on there is room for a number beside each circle


def partition(counts: Sequence[Sequence[int]], classes: Sequence[str], width: int, prefix: str, names: Sequence[str] = ()) -> str:
    """Samples of each client and class, [clients][K]: the area of a circle, and of each client the height of a bar, both on one scale.

    Clients stand side by side, in as many rows as it takes for each to have 13 CSS pixels of `width`. With room enough the numbers stand
    beside the circles, and the clients' `names` below them.
    """
    table = np.asarray(counts, dtype=np.int64)
    clients, kinds = table.shape
    labels = [_short(each, 12) for each in classes]
    room = width - 44 - 7 * max(map(len, labels))
    bands = math.ceil(clients / max(1, int(room // _LEAST)))
    columns = math.ceil(clients / bands)
    pitch = room / columns
    row = min(20.0, max(6.0, 420 / kinds))
    named = [_short(each, int(pitch / 7)) for each in names] if pitch > _FEW else []
    named, every = named or list(map(str, range(clients))), 1
    if not (names and pitch > _FEW):
        every = next(step for step in (1, 2, 5, 10, 20, 50) if step * pitch > 7 * len(named[-1]) + 6 or step == 50)
    skipped = math.ceil(13 / row)
    top = _GAP - (_BAR + 16) / row

    def draw(axes: list[Axes]) -> None:
        for band, axis in enumerate(axes):
            own = range(band * columns, min((band + 1) * columns, clients))
            part = table[own.start : own.stop]
            _frame(axis, columns, kinds, top)
            _circles(axis, part, int(table.max()), 0.94 * min(1.35 * pitch, row), pitch > _FEW)
            _bars(axis, part.sum(1), int(table.sum(1).max()), _BAR / row, pitch)
            marked = [client for client in own if client % every == 0]
            axis.set_xticks([client - own.start for client in marked], [named[client] for client in marked])
            axis.set_yticks(range(0, kinds, skipped), labels[::skipped])
            for label in [*axis.get_xticklabels(), *axis.get_yticklabels()]:
                label.set_parse_math(False)
        axes[-1].set_xlabel("client", color=MUTED)
        told = [f"bar: samples of a client, up to {table.sum(1).max():,}", f"circle: of one class, up to {table.max():,}"]
        axes[0].set_title(("\n" if width < _NARROW else "; ").join(told), loc="left", color=MUTED, fontsize=11, pad=6)

    height = bands * (row * (kinds - 0.4 - top) + 26) + (62 if width < _NARROW else 48)
    return svg(draw, (bands, 1), (width, round(height)), prefix)


def _circles(axis: Axes, table: NDArray[np.int64], most: int, widest: float, numbered: bool) -> None:
    """A circle for each entry above 0, the largest first. Those of one size, to half a pixel, are the round ends of lines without length:
    a third of the bytes that as many markers take."""
    client, kind = np.nonzero(table)
    found = table[client, kind]
    size = np.maximum(2.0, np.round(2 * widest * np.sqrt(found / max(1, most))) / 2)
    for each in np.unique(size)[::-1]:
        here = np.repeat(size == each, 3)
        x, y = (np.repeat(values, 3).astype(np.float64)[here] for values in (client, kind))
        x[2::3] = np.nan
        for colour, wide in ((PAPER, each + 1.5), (SERIES[0], each)) if each > 8 else ((SERIES[0], each),):
            (line,) = axis.plot(x, y, color=colour, linewidth=wide, solid_capstyle="round", clip_on=False)
            line.get_path().should_simplify = False
    if numbered:
        for column, place, number, wide in zip(client, kind, found, size, strict=True):
            axis.annotate(
                f"{number:,}", (column, place), xytext=(wide / 2 + 3, 0), textcoords="offset points", va="center", color=INK, fontsize=10,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8},
            )  # fmt: skip


def _bars(axis: Axes, sizes: NDArray[np.int64], most: int, highest: float, pitch: float) -> None:
    """The samples of each client, upwards from above the first row."""
    heights = highest * sizes / max(1, most)
    x = np.repeat(np.arange(len(sizes), dtype=np.float64), 3)
    y = np.stack([np.full(len(sizes), _GAP), _GAP - heights, np.full(len(sizes), np.nan)], axis=1).reshape(-1)
    axis.plot(x, y, color=REST, linewidth=min(0.7 * pitch, 28), solid_capstyle="butt")
    if pitch > 7 * len(f"{most:,}"):
        for place, (number, height) in enumerate(zip(sizes, heights, strict=True)):
            axis.annotate(
                f"{number:,}", (place, _GAP - height), xytext=(0, 2), textcoords="offset points", ha="center", color=MUTED, fontsize=10
            )  # fmt: skip


def _frame(axis: Axes, columns: int, kinds: int, top: float) -> None:
    axis.set_xlim(-0.6, columns - 0.4)
    axis.set_ylim(kinds - 0.4, top)
    axis.grid(axis="y", color=LINE, linewidth=1)
    axis.spines["left"].set_visible(False)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(length=0, labelcolor=MUTED, labelsize=11, pad=4)


def described(counts: Sequence[Sequence[int]]) -> str:
    """The same in a sentence, for a caption."""
    table = np.asarray(counts, dtype=np.int64)
    sizes, held = np.sort(table.sum(1)), np.sort((table > 0).sum(1))
    return (
        f"{len(table)} client{'s' * (len(table) != 1)} with {sizes.sum():,} samples: from {sizes[0]:,} to {sizes[-1]:,} each, median "
        f"{np.median(sizes):g}; of {table.shape[1]} classes each has {held[0]} to {held[-1]}, median {np.median(held):g}."
    )
