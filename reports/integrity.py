"""integrity.html, and its main figures as lines: bit flips, faults and tampering."""

from __future__ import annotations

from typing import Any

from trustsnn.reports.html import render
from trustsnn.reports.lines import Line
from trustsnn.reports.lines import lines as drawn
from trustsnn.reports.wording import estimator_text, percent, range_text

FORMAT = "trustsnn-integrity/1"
_GROUPS = ("neuron", "synapse")
_NAMES = {"model": "the model", "twin": "its ANN twin"}


def page(record: dict[str, Any]) -> str:
    """The record of an integrity run as one HTML page. Equal records give equal bytes."""
    from markupsafe import Markup

    charts = {name: Markup(svg) for name, svg in _charts(record).items()}
    kinds = {group: [each["kind"] for each in record["faults"] if each["kind"].startswith(group)] for group in _GROUPS}
    sensitive = sorted(record["by_layer"], key=lambda row: row["mean"]["value"])
    return render(
        "integrity.html.j2", record=record, charts=charts, sensitive=sensitive, sentences=sentences(record),
        searches=searches(record), band=band, worst=worst, harmful=harmful, kinds=kinds, estimator_text=estimator_text,
    )  # fmt: skip


def lines(record: dict[str, Any]) -> list[str]:
    """The record as lines for a terminal."""
    found = [f"clean: {_figure(record['clean'])}", *sentences(record)]
    for entry in record["faults"]:
        shown = harmful(entry["bands"], record["clean"]["value"]) or entry["bands"][-1]
        found.append(f"{entry['kind']}, {shown['count']:,} of {entry['sites']:,}: {band(shown)}")
    for row in sorted(record["by_layer"], key=lambda row: row["mean"]["value"])[:5]:
        found.append(f"{row['kind']}, {row['count']} of {row['sites']:,} in {row['layer']} alone: {band(row)}")
    for row in record["tampering"]:
        least = worst(row)
        found.append(
            f"{row['parameter']} of {row['layer'] or 'all layers'}: at worst {_figure(least)}, times {least['factor']:g}"
        )
    return found


def sentences(record: dict[str, Any]) -> list[str]:
    """What came of the search for bits, and of the gate."""
    found = []
    for name, result in searches(record):
        quantised, last = result["accuracy"][0], result["accuracy"][-1]
        flips, bits = len(result["flips"]), f"{result['bits']:,} bits"
        start = (
            f"{_NAMES[name][0].upper()}{_NAMES[name][1:]}, {_figure(quantised)} with {record['bit_flips']['bits']}-bit weights:"
        )
        if result["to_chance"] is not None:
            found.append(
                f"{start} {result['to_chance']} flips of {bits} bring it down to guessing ({percent(result['chance'])})."
            )
        elif result["stopped"] == "gradient":
            found.append(
                f"{start} after {flips} flips no gradient proposes another bit, and {_figure(last)} are still right. That says as much of "
                "the gradient as of the model: ask other estimators."
            )
        else:
            found.append(
                f"{start} {flips} flips of {bits} leave {_figure(last)} right; guessing gets {percent(result['chance'])}."
            )
    if record["bit_flips"]:
        last_band = record["bit_flips"]["random"][-1]
        found.append(f"{last_band['count']} flips at random leave {band(last_band)}.")
    if record["gate"] is not None:
        gate = record["gate"]
        reached = f"{gate['value']} flips" if gate["value"] is not None else f"more than {gate['searched']} flips"
        found.append(f"Gate: {reached} to guessing, at least {gate['bound']}: {'holds' if gate['holds'] else 'FAILS'}.")
    return found


def searches(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The searches for bits by what they were of."""
    flips = record["bit_flips"] or {}
    return [(name, flips[name]) for name in _NAMES if flips.get(name)]


def band(row: dict[str, Any]) -> str:
    """A mean over draws with its interval, and the worst of them."""
    mean = row["mean"]
    return (
        f"{percent(mean['value'])} (95 % interval {range_text(mean)}; {mean['count']} draws of {row['figures'][0]['count']} samples, "
        f"{percent(row['lowest'])} at worst)"
    )


def harmful(bands: list[dict[str, Any]], clean: float) -> dict[str, Any] | None:
    """The first number of faults tried whose mean costs more than a tenth of the accuracy, None where none does."""
    return next((each for each in bands if each["mean"]["value"] < 0.9 * clean), None)


def worst(row: dict[str, Any]) -> dict[str, Any]:
    """The point of a sweep that leaves least."""
    least: dict[str, Any] = min(row["points"], key=lambda point: point["value"])
    return least


def _figure(figure: dict[str, Any]) -> str:
    return f"{percent(figure['value'], figure['count'])} of {figure['count']} ({range_text(figure)})"


def _charts(record: dict[str, Any]) -> dict[str, str]:
    found, chance = {}, None
    if record["bit_flips"]:
        chance = record["bit_flips"]["model"]["chance"]
        series = [_points(_NAMES[name], enumerate(result["accuracy"])) for name, result in searches(record)]
        series.append(_bands("at random", record["bit_flips"]["random"]))
        found["flips"] = drawn(series, chance, "flipped bits", "flips")
    for group in _GROUPS:
        series = [
            _bands(each["kind"].removeprefix(f"{group}-"), each["bands"])
            for each in record["faults"]
            if each["kind"].startswith(group)
        ]
        if series:
            found[group] = drawn(series, chance, f"{group}s with a fault", group)
    for parameter in dict.fromkeys(row["parameter"] for row in record["tampering"]):
        rows = [row for row in record["tampering"] if row["parameter"] == parameter]
        series = [_points(row["layer"] or "all layers", ((point["factor"], point) for point in row["points"])) for row in rows]
        found[parameter] = drawn(series, chance, f"factor on the {parameter}", parameter, log=True)
    return found


def _points(name: str, points: Any) -> Line:
    at, figures = zip(*points, strict=True)
    return Line(name, at, *([figure[key] for figure in figures] for key in ("value", "low", "high")))


def _bands(name: str, bands: list[dict[str, Any]]) -> Line:
    means = [each["mean"] for each in bands]
    return Line(name, [each["count"] for each in bands], *([mean[key] for mean in means] for key in ("value", "low", "high")))
