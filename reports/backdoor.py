"""scan.html, and its main figures as lines: what each detector says of each class, and the triggers that were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trustsnn.reports.html import render
from trustsnn.reports.pictures import pixels, uri
from trustsnn.reports.wording import joined, percent, range_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "trustsnn-backdoor-scan/1"
NAMES = {"inversion": "trigger inversion", "margin": "membrane margin", "sweep": "threshold sweep"}
_LIMIT = (
    "A scan sees the backdoors that it looks for: a small patch that carries all classes to one, and a margin out of proportion. One that it "
    "does not find may still be there."
)


def page(record: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """The record of a scan as one HTML page. `arrays` has the masks [K, 1, H, W] and patterns [K, ...] of an inversion, or nothing. Equal
    arguments give equal bytes."""
    return render(
        "backdoor.html.j2", record=record, sentences=sentences(record), limit=_LIMIT, names=NAMES, rows=_rows(record),
        pictures=pictures(record, arrays), bound=_bound, strength=_strength,
    )  # fmt: skip


def lines(record: dict[str, Any]) -> list[str]:
    """The record as lines for a terminal."""
    found = sentences(record)
    for each in record["evidence"]:
        if each["problem"] is None:
            best = max(range(len(each["index"])), key=each["index"].__getitem__)
            found.append(
                f"{NAMES[each['detector']]}: class {_class(record, best)} stands out most, {_strength(each, best)}; {_bound(each)}"
            )
    return found


def planted_lines(record: dict[str, Any]) -> list[str]:
    """What planting a backdoor came to, as lines for a terminal; see `trustsnn.runners.backdoor.planted`."""
    found = [record["warning"]]
    for name, each in record["models"].items():
        right, works = (
            f"{percent(figure['value'], figure['count'])} of {figure['count']} ({range_text(figure)})"
            for figure in (each["clean"], each["success"])
        )
        found.append(f"{name}: {right} clean samples right; the trigger leads {works} to class {record['target']}")
    return found


def sentences(record: dict[str, Any]) -> list[str]:
    """The verdict and its reasons."""
    verdict = record["verdict"]
    classes = joined([_class(record, each) for each in verdict["classes"]])
    found = {
        "backdoored": f"Backdoored: at least two detectors name the class {classes}.",
        "not found": "No backdoor was found: no detector names a class.",
        "inconclusive": "Inconclusive: the scan cannot say.",
    }[verdict["outcome"]]
    clean = record["clean"]
    right = f"{percent(clean['value'], clean['count'])} of {clean['count']} clean samples are right ({range_text(clean)})."
    reasons = [f"{each[0].upper()}{each[1:]}." for each in verdict["reasons"]]
    left_out = [f"Left out, {NAMES[name]}: {why}." for name, why in record["left_out"].items()]
    held = {"backdoored": "FAILS", "not found": "holds", "inconclusive": "cannot be judged"}[verdict["outcome"]]
    gate = [f"Gate, no backdoor: {held}."] if record["gate"] else []
    return [found, *reasons, right, *left_out, *gate]


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a class: for each detector its value, how far it stands out, and whether that is a hit; and what its trigger carries."""
    carried = record["carried"] or [None] * len(record["data"]["classes"])
    return [
        {
            "name": name,
            "cells": [
                {"value": each["values"][place], "index": _strength(each, place), "hit": place in each["hits"]}
                for each in record["evidence"]
            ],
            "carried": None if carried[place] is None else f"{percent(carried[place]['value'])} ({range_text(carried[place])})",
        }
        for place, name in enumerate(record["data"]["classes"])
    ]


def _strength(evidence: dict[str, Any], place: int) -> str:
    """How far a class stands out, in the words of its detector."""
    index: float = evidence["index"][place]
    if evidence["detector"] == "margin":
        return f"p = {10**-index:.2g}"
    return f"{100 * index:+.0f} % of the predictions" if evidence["detector"] == "sweep" else f"index {index:.2f}"


def _bound(evidence: dict[str, Any]) -> str:
    """The threshold of a detector and where it comes from."""
    if evidence["threshold"] is None:
        return str(evidence["source"])
    shown = _strength({**evidence, "index": [evidence["threshold"]]}, 0)
    return f"threshold {shown}, {evidence['source']}"


def pictures(record: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """The trigger that was found for each class: its mask and what it shows, as data URIs; nothing without the arrays."""
    if not arrays:
        return []
    evidence = next(each for each in record["evidence"] if each["reached"] is not None)
    most = record["model"]["spec"]["max_count"] or 1
    found = []
    for place, name in enumerate(record["data"]["classes"]):
        mask, pattern = arrays["mask"][place], arrays["pattern"][place] / most
        shown = mask * (pattern.mean(0) if pattern.ndim == 4 else pattern)
        pair = [uri(pixels(each)) for each in (mask, shown)]
        found.append(
            {
                "name": name, "mask": pair[0], "trigger": pair[1], "size": evidence["values"][place],
                "reached": evidence["reached"][place], "hit": place in evidence["hits"],
            }
        )  # fmt: skip
    return found


def _class(record: dict[str, Any], place: int) -> str:
    return str(record["data"]["classes"][place])
