"""Figures as inline SVG: drawn by matplotlib, coloured by the page's style sheet, equal bytes for equal figures."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trustsnn.reports.wording import axis_text, eps_text, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib wants colours; the page wants variables that follow light and dark. These stand in for them until the end.
_PAINT = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--paper)",
    "#050505": "var(--series-1)",
    "#060606": "var(--series-2)",
    "#070707": "var(--series-3)",
    "#080808": "var(--rest)",
}
INK, MUTED, LINE, PAPER, *SERIES, REST = _PAINT
_NARROW = 480
_LABEL = 52  # the room that a label needs along the axis, in CSS pixels


def curve(
    clean: dict[str, Any],
    figures: Sequence[dict[str, Any]],
    chance: float | None,
    bounds: Sequence[Any],
    width: int,
    steps: Mapping[str, Sequence[dict[str, Any]]] | None = None,
) -> str:
    """Accuracy against eps: one panel a norm, each beginning at the clean accuracy, with the 95 % band.

    `steps` holds, for a norm whose smallest eps were searched, figures that hold from their eps up to the next. `bounds` are the
    gates as (norm, eps, bound); `width` is in CSS pixels, below 480 the panels stand one below the other.
    """
    norms = list(dict.fromkeys(figure["norm"] for figure in figures))
    stacked = width < _NARROW
    columns, rows = (1, len(norms)) if stacked else (len(norms), 1)

    def draw(axes: list[Axes]) -> None:
        for place, (panel, norm) in enumerate(zip(axes, norms, strict=True)):
            points = [{**clean, "eps": 0.0}, *(figure for figure in figures if figure["norm"] == norm)]
            gates = [(eps, bound) for other, eps, bound in bounds if other == norm]
            points = [point for point in points if point["value"] is not None]
            _panel(
                panel, norm, points, (steps or {}).get(norm), SERIES[place % len(SERIES)], chance, gates, _LABEL * columns / width
            )
            if place and not stacked:
                panel.set_yticklabels([])

    height = 250 * rows if stacked else 330
    return svg(draw, (rows, columns), (width, height), f"curve-{width}")


def bars(layers: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], width: int) -> str:
    """Horizontal bars of spike rates: a group for each layer, a bar for each series of (name, rate per layer)."""
    thick = 15
    group = thick * len(series) + 16

    def draw(axes: list[Axes]) -> None:
        axis = axes[0]
        colours = [REST, *SERIES]
        top = max([rate for _, rates in series for rate in rates if rate is not None] or [1.0]) or 1.0
        for place, (_, rates) in enumerate(series):
            for layer, rate in enumerate(rates):
                if rate is None:
                    continue
                y = layer * group + place * thick
                axis.barh(y, rate, height=thick - 4, color=colours[place % len(colours)], linewidth=0)
                axis.text(rate + top * 0.012, y, f"{rate:.3f}", va="center", ha="left", color=INK, fontsize=11)
        axis.set_yticks([layer * group + (len(series) - 1) * thick / 2 for layer in range(len(layers))])
        axis.set_yticklabels([_short(layer) for layer in layers])
        for label in axis.get_yticklabels():
            label.set_parse_math(False)
        axis.set_ylim(len(layers) * group - thick / 2 - 4, -thick / 2 - 8)
        axis.set_xlim(0, top * 1.16)
        axis.set_xlabel("spikes per neuron and time step", color=MUTED)
        axis.grid(axis="x", color=LINE, linewidth=1)
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="both", length=0, labelcolor=MUTED, pad=6)
        axis.tick_params(axis="y", labelcolor=INK)

    return svg(draw, (1, 1), (width, group * len(layers) + 56), f"bars-{width}")


def _panel(
    axis: Axes,
    norm: str,
    points: list[dict[str, Any]],
    steps: Sequence[dict[str, Any]] | None,
    colour: str,
    chance: float | None,
    gates: list[Any],
    room: float,
) -> None:
    eps = [point["eps"] for point in points]
    right = max(eps, default=0.0) or 1.0
    labelled = apart(sorted(set(eps)), room * right)
    line = steps or points
    at = [point["eps"] for point in line]
    value, low, high = ([100 * point[name] for point in line] for name in ("value", "low", "high"))
    axis.fill_between(at, low, high, step="post" if steps else None, color=colour, alpha=0.16, linewidth=0)
    axis.plot(at, value, drawstyle="steps-post" if steps else "default", color=colour, linewidth=2.2, solid_joinstyle="round")
    for point in points:
        face = colour if point["status"] == "ok" else PAPER
        axis.plot(
            point["eps"],
            100 * point["value"],
            "o",
            markersize=7,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=2,
            clip_on=False,
        )
        if point["eps"] in labelled:
            axis.annotate(
                percent(point["value"]).replace(" %", ""),
                (point["eps"], 100 * point["value"]),
                xytext=(8, 8),
                textcoords="offset points",
                color=INK,
                fontsize=12,
            )
    for place, bound in gates:
        axis.plot(
            [place], [100 * bound], marker="_", markersize=20, markeredgewidth=2, color=INK, linestyle="none", clip_on=False
        )
    if chance:
        axis.axhline(100 * chance, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axis.annotate(
            "guessing", (-0.03 * right, 100 * chance), xytext=(2, 4), textcoords="offset points", color=MUTED, fontsize=11
        )
    axis.set_xlim(-0.03 * right, 1.12 * right)
    axis.set_xticks(labelled)
    axis.set_xticklabels([eps_text(tick) for tick in labelled])
    axis.set_xlabel(axis_text(norm), color=MUTED)
    in_per_cent(axis)


def in_per_cent(axis: Axes) -> None:
    """The share that is correct, as the vertical axis of every curve has it."""
    axis.set_ylim(0, 108)
    axis.set_yticks([0, 25, 50, 75, 100])
    axis.set_title("correct, %", loc="left", color=MUTED, fontsize=12, pad=8)
    axis.grid(axis="y", color=LINE, linewidth=1)
    axis.spines["left"].set_visible(False)
    axis.tick_params(length=0, labelcolor=MUTED, pad=6)


def apart(places: Sequence[float], least: float) -> list[float]:
    """Of the sorted `places` as many as stand `least` apart, the first and the last among them."""
    kept = list(places[-1:])
    for place in reversed(places[1:-1]):
        if kept[-1] - place >= least and place - places[0] >= least:
            kept.append(place)
    return [*places[:1], *reversed(kept)] if len(places) > 1 else kept


def svg(draw: Callable[[list[Axes]], None], grid: tuple[int, int], size: tuple[int, int], prefix: str) -> str:
    """What `draw` puts on a grid (rows, columns) of axes, as a bare <svg> of `size` CSS pixels whose ids begin with `prefix`."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    settings: Any = {"svg.hashsalt": "trustsnn", "svg.fonttype": "none", "font.size": 12}
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc must not change the report
        matplotlib.rcParams.update(settings)
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has the font, not matplotlib
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.05, hspace=0.06))
        FigureCanvasSVG(figure)
        axes = list(figure.subplots(*grid, squeeze=False).flat)
        for axis in axes:
            axis.set_axisbelow(True)
            axis.patch.set_visible(False)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
            for spine in axis.spines.values():
                spine.set_color(LINE)
        draw(axes)
        stream = io.StringIO()
        figure.savefig(
            stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _for_page(stream.getvalue(), prefix)


def _for_page(svg: str, prefix: str) -> str:
    """The bare <svg> element: own ids, the page's colours and font, no metadata, no size but its view box."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    svg = f'<svg {box.group() if box else ""} aria-hidden="true" focusable="false">{rest}'
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace('xlink:href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    svg = re.sub(r"(font: [^;\"]*?px )[^;\"]*", r"\1var(--sans)", svg)
    return re.sub("|".join(_PAINT), lambda match: _PAINT[match.group()], svg).strip()


def _short(name: str, most: int = 22) -> str:
    """`name`, its middle left out when it is longer than `most` characters."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"
