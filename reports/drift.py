"""Accuracy on hardware twins against the time since their weights were programmed, as an inline SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trustsnn.reports.charts import INK, MUTED, SERIES, apart, in_per_cent, svg
from trustsnn.reports.record import Json
from trustsnn.reports.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = {"year": 31_536_000, "month": 2_592_000, "day": 86_400, "h": 3600, "min": 60, "s": 1}
_ROOM = 64  # that a label of the axis needs, in CSS pixels


def by_time(rows: Sequence[Json]) -> dict[str, list[Json]]:
    """The rows of `on_hardware` without an attack, by kinds of chips that were tried at several times and differ in nothing else, each
    in the order of time. A kind is its line without the time."""
    found: dict[str, list[Json]] = {}
    for row in rows:
        if row["threat"]["attack"] == "none" and row["time"] is not None and row["median"] is not None:
            found.setdefault(re.sub(r"@[^:+]*|:time=[^:+]*", "", row["twin"]), []).append(row)
    ordered = {kind: sorted(each, key=lambda row: row["time"]) for kind, each in found.items()}
    return {kind: each for kind, each in ordered.items() if each[0]["time"] < each[-1]["time"]}


def drift(rows: Sequence[Json], width: int, prefix: str) -> str:
    """The median chip with the interval of the median over chips, the worst chip, and the network, at the times of `rows`, which are
    evenly spaced by the logarithm of 1 s + time. `width` is in CSS pixels."""

    def draw(axes: list[Axes]) -> None:
        panel = axes[0]
        at = [math.log10(1 + row["time"]) for row in rows]
        span = at[-1] - at[0]
        median, worst = ([100 * row[name]["value"] for row in rows] for name in ("median", "worst"))
        banded = [(x, row["over_chips"]) for x, row in zip(at, rows, strict=True) if row["over_chips"] is not None]
        low, high = ([100 * ends[name] for _, ends in banded] for name in ("low", "high"))
        panel.fill_between([x for x, _ in banded], low, high, color=SERIES[0], alpha=0.16, linewidth=0)
        network = 100 * rows[0]["network"]["value"]
        panel.axhline(network, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label="network")
        panel.plot(
            at, worst, "o", linestyle=(0, (5, 2)), color=SERIES[1], linewidth=2, markersize=5, label="worst chip", clip_on=False
        )
        panel.plot(at, median, "o-", color=SERIES[0], linewidth=2.2, markersize=7, label="median chip", clip_on=False)
        for x in labelled(at, width):
            value = rows[at.index(x)]["median"]["value"]
            text = percent(value).replace(" %", "")
            panel.annotate(text, (x, 100 * value), xytext=(6, 8), textcoords="offset points", color=INK, fontsize=12)
        panel.set_xlim(at[0] - 0.03 * span, at[-1] + 0.12 * span)
        panel.set_xticks(labelled(at, width))
        panel.set_xticklabels([duration(rows[at.index(x)]["time"]) for x in labelled(at, width)])
        panel.set_xlabel("time since the weights were programmed", color=MUTED)
        in_per_cent(panel)
        lines = reversed(panel.get_legend_handles_labels()[0])
        panel.legend(
            handles=list(lines), frameon=False, fontsize=11, labelcolor=INK, ncols=3, loc="upper left", bbox_to_anchor=(-0.04, -0.2),
            columnspacing=1.2, handlelength=1.6, handletextpad=0.5,
        )  # fmt: skip

    return svg(draw, (1, 1), (width, 330 if width > 480 else 280), prefix)


def labelled(at: Sequence[float], width: int) -> list[float]:
    """Of the places on the axis those that have room for a label."""
    return apart(sorted(set(at)), _ROOM / width * 1.15 * (at[-1] - at[0]))


def duration(seconds: float) -> str:
    """A time in the largest unit that it has one of, such as "25 s" or "1 month"."""
    unit = next((name for name, size in _UNITS.items() if seconds >= size), "s")
    count = f"{seconds / _UNITS[unit]:.3g}"
    return f"{count} {unit}s" if unit in ("year", "month", "day") and count != "1" else f"{count} {unit}"
