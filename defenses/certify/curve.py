"""Certified accuracy: how many samples are classified correctly and stay so within a radius. As a table and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from trustsnn.reports.charts import curve as drawn
from trustsnn.statistics import Figure, proportion

_PLACES = 8
_COLUMNS = ("sample", "label", "prediction", "radius")
_COLOURS = {
    "ink": "#161b22",
    "muted": "#596373",
    "line": "#e2e5ea",
    "paper": "#ffffff",
    "series-1": "#2458c6",
    "sans": "sans-serif",
}


def holds(entry: Mapping[str, Any], norm: str, radius: float) -> bool:
    """Whether a sample is classified as its label at every distance up to `radius`; up to and at it in L-inf, where radii are closed."""
    known = entry["radius"]
    if known is None or entry["prediction"] != entry["label"]:
        return False
    return bool(known >= radius if norm == "linf" else known > radius)


def certified_accuracy(entries: Sequence[Mapping[str, Any]], norm: str, radius: float) -> Figure:
    """The samples that hold at `radius`, with the 95 % interval of Wilson."""
    return proportion(sum(holds(entry, norm, radius) for entry in entries), len(entries))


def correct(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """The samples whose prediction is their label, certified or not; one that abstains is not."""
    return proportion(sum(entry["prediction"] == entry["label"] for entry in entries), len(entries))


def places(entries: Sequence[Mapping[str, Any]]) -> list[float]:
    """Radii to read a curve at: equal steps from 0 to the largest."""
    largest = max((entry["radius"] or 0.0 for entry in entries), default=0.0)
    return [largest * place / _PLACES for place in range(_PLACES + 1)] if largest else [0.0]


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """One row a sample as CSV; empty where there is no prediction or no radius."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return text.getvalue()


def picture(content: Mapping[str, Any]) -> str:
    """Certified accuracy against the radius as an SVG file: a step at each certified sample, marks at the radii of `curve`."""
    entries, norm = content["samples"], content["norm"]
    figures = [
        {**point, "eps": point["radius"], "norm": norm, "status": "ok"} for point in content["curve"] if point["radius"] > 0
    ]
    clean = {**certified_accuracy(entries, norm, 0.0), "status": "ok"}
    radii = sorted({0.0, *(entry["radius"] for entry in entries if entry["radius"] is not None)})
    steps = [{**certified_accuracy(entries, norm, radius), "eps": radius, "status": "ok"} for radius in radii]
    if not figures:
        figures = [{**clean, "eps": 1.0, "norm": norm}]
    svg = drawn(clean, figures, 1 / content["model"]["classes"], [], 640, {norm: steps} if norm != "linf" else None)
    style = ";".join(f"--{name}:{colour}" for name, colour in _COLOURS.items())
    return svg.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" style="{style};background:#fff" ', 1) + "\n"
