"""Accuracy against a number of changes, or a factor, as an inline SVG: lines with their bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from trustsnn.reports.charts import INK, LINE, MUTED, REST, SERIES, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (*SERIES, REST, INK)
_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))


class Line(NamedTuple):
    """A line by its name: places on the axis, and there the accuracy with a band, in [0, 1]."""

    name: str
    at: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def lines(series: Sequence[Line], chance: float | None, axis: str, prefix: str, *, width: int = 820, log: bool = False) -> str:
    """The lines in one panel. `chance` is drawn as a dotted line; `axis` says what the places count; `prefix` keeps the figure's ids
    apart from others on the page; `log` sets factors evenly apart, by their logarithm."""

    def draw(axes: list[Axes]) -> None:
        panel = axes[0]
        for place, line in enumerate(series):
            colour, style = _COLOURS[place % len(_COLOURS)], _STYLES[place // len(_COLOURS) % len(_STYLES)]
            low, value, high = ([100 * each for each in column] for column in (line.low, line.value, line.high))
            panel.fill_between(line.at, low, high, color=colour, alpha=0.14, linewidth=0)
            panel.plot(line.at, value, color=colour, linestyle=style, marker="o", markersize=4, linewidth=2, label=line.name)
        if chance is not None:
            panel.axhline(100 * chance, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        if log:
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
        else:
            panel.set_xscale("symlog", base=2, linthresh=1)
            panel.set_xlim(left=-0.25)
            panel.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
        panel.set_ylim(0, 104)
        panel.set_yticks([0, 25, 50, 75, 100])
        panel.set_xlabel(axis, color=MUTED)
        panel.set_title("correct, %", loc="left", color=MUTED, fontsize=12, pad=8)
        panel.grid(axis="y", color=LINE, linewidth=1)
        panel.tick_params(length=0, labelcolor=MUTED, pad=6)
        legend = panel.legend(frameon=False, fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5), labelcolor=INK)
        for text in legend.get_texts():
            text.set_parse_math(False)

    return svg(draw, (1, 1), (width, 320), prefix)
