"""extraction.html: how near copies of a model come to it, against the number of queries that they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.reports.charts import INK, LINE, MUTED, REST, SERIES, svg
from trustsnn.reports.html import render
from trustsnn.reports.wording import eps_text, percent, range_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = "trustsnn-extraction/1"
_CURVES = {"agreement": "agreement with the model", "accuracy": "accuracy of the copy", "transfer": "misled by PGD on the copy"}


def page(record: dict[str, Any]) -> str:
    """The record of an extraction as one HTML page. Equal records give equal bytes."""
    from markupsafe import Markup

    return render("extraction.html.j2", record=record, chart=Markup(chart(record)), sentences=sentences(record), cell=_cell)


def sentences(record: dict[str, Any]) -> list[str]:
    """What the largest budget bought."""
    last, own = record["copies"][-1], record["accuracy"]
    found = [
        f"{last['queries']:,} queries ({record['queries']['name']}, {record['attack']['answers']}) buy a copy that agrees with the model on "
        f"{_told(last['agreement'])} and has {_told(last['accuracy'])} right; the model has {_told(own)}."
    ]
    if last["transfer"] is not None:
        found.append(
            f"PGD of L∞ {eps_text(record['eps'])} on that copy misleads the model on {_told(last['transfer'])} of what it had right; PGD on the "
            f"model itself on {_told(record['white_box'])}, random signs of that size on {_told(record['random_signs'])}."
        )
    return found


def _told(figure: dict[str, Any]) -> str:
    return f"{percent(figure['value'], figure['count'])} of {figure['count']} ({range_text(figure)})"


def _cell(figure: dict[str, Any] | None) -> str:
    return "–" if figure is None else f"{100 * figure['value']:.1f} ({range_text(figure)})"


def chart(record: dict[str, Any]) -> str:
    """Agreement, accuracy and transfer against the number of queries as SVG."""
    curves = {name: [row[name] for row in record["copies"]] for name in _CURVES}
    at = [row["queries"] for row in record["copies"]]

    def draw(axes: list[Axes]) -> None:
        axis = axes[0]
        for (name, figures), colour in zip(curves.items(), SERIES, strict=False):
            if figures[0] is not None:
                value, low, high = ([100 * figure[key] for figure in figures] for key in ("value", "low", "high"))
                axis.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
                axis.plot(at, value, "o-", color=colour, linewidth=2, markersize=5, label=_CURVES[name])
        levels = {"accuracy of the model": record["accuracy"], "misled by PGD on the model": record["white_box"]}
        for (name, figure), style in zip(levels.items(), ("--", ":"), strict=True):
            if figure is not None:
                axis.axhline(100 * figure["value"], color=REST, linestyle=style, label=name)
        axis.set_xscale("log")
        axis.set_xticks(at, [f"{each:,}" for each in at])
        axis.set_xticks([], minor=True)
        axis.set_ylim(0, 104)
        axis.set_xlabel("queries", color=MUTED)
        axis.set_title("share of the samples, %", loc="left", color=MUTED, fontsize=12)
        axis.grid(axis="y", color=LINE)
        axis.tick_params(length=0, labelcolor=MUTED)
        axis.legend(frameon=False, fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5), labelcolor=INK)

    return svg(draw, (1, 1), (820, 320), "extraction")
