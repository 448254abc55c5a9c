"""What a hardening gained: two audits of the same samples, before and after, and whether the gain survives the whole ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trustsnn.reports.card import plain, table
from trustsnn.reports.compare import common_samples, compare, paired
from trustsnn.reports.evidence import robust
from trustsnn.reports.html import render
from trustsnn.reports.record import Json, Record, is_attack, is_clean, read
from trustsnn.reports.samples import outcomes
from trustsnn.reports.wording import ball_text, percent

FORMAT = "trustsnn-hardening/1"
NOT_OWN = ("snn-autoattack", "bisection", "square", "transfer")
"""Attacks that use more than the gradient through the model's own surrogate."""

OUTCOMES = {
    "survives": "the gain survives",
    "vanishes": "the gain through the own surrogate does not survive: it masks the gradient, or was too small to measure",
    "none": "there is no gain that these samples could show",
    "worse": "the model lost robustness",
}


def hardening(before: Path, after: Path) -> Json:
    """The audit folders `before` and `after` held against each other at every (norm, eps) that both planned, no attack first.

    Each row has `own` and `all`: figures `a` and `b`, their `difference` with its 95 % interval and McNemar's p, as in `compare`; `own`
    under the attacks that go through the model's own surrogate (None where there are none), `all` under every attack. `outcome`:
    "survives" if the interval of `all` lies above 0, "worse" if it lies below, "vanishes" if that of `own` alone lies above 0,
    else "none".

    Raises:
        ConfigError: the runs have no samples in common.
        RunError: a folder is no run folder, or is damaged.
    """
    found = compare(before, after)
    records = read(Path(before)), read(Path(after))
    tables = outcomes(records[0]), outcomes(records[1])
    common, _ = common_samples(records, tables)
    rows = []
    for row in found["rows"]:
        own = None
        if row["norm"] is not None:
            chosen = [_through_own(record, each, row["norm"]) for record, each in zip(records, tables, strict=True)]
            if all(any(not is_clean(record.plan[key]) for key in each) for record, each in zip(records, chosen, strict=True)):
                kept = [
                    robust(record, each, row["norm"], row["eps"]).reindex(common)
                    for record, each in zip(records, chosen, strict=True)
                ]
                own = paired(*kept)
        every = {key: row[key] for key in ("a", "b", "difference", "only_a", "only_b", "p")}
        entry = {"norm": row["norm"], "eps": row["eps"], "own": own, "all": every, "status": row["status"]}
        rows.append({**entry, "outcome": outcome(own, every)})
    kept_keys = ("samples", "models", "verdicts", "differences")
    return {"format": FORMAT, **{key: found[key] for key in kept_keys}, "rows": rows}


def hardening_text(result: Json) -> str:
    """`hardening` as Markdown."""
    lines = [
        f"## {plain(result['models'][0]['name'])} before and after hardening",
        "",
        f"On {result['samples']} samples. Verdicts of the two audits: before {result['verdicts'][0]}, after {result['verdicts'][1]}.",
        "",
        *table(
            ("Within", "Own surrogate, before", "after", "gain", "Every attack, before", "after", "gain", "Status"),
            [_row(row) for row in result["rows"]],
        ),
        "",
        "A gain is in points, with the 95 % interval of the paired difference.",
        "",
        *(f"- {sentence}" for sentence in sentences(result)),
        "",
    ]
    return "\n".join(lines)


def hardening_page(result: Json, recipe: str) -> str:
    """`hardening` as one HTML page, which links to the reports of both audits; `recipe` is what was trained."""
    return render("hardening.html.j2", result=result, recipe=recipe, sentences=sentences(result))


def sentences(result: Json) -> list[str]:
    """What came out at each (norm, eps), in words."""
    said = []
    for row in result["rows"]:
        if row["norm"] is None:
            continue
        change = row["all"]["difference"]
        text = f"Within {ball_text(row['norm'], row['eps'])}: {OUTCOMES[row['outcome']]} ({points(change)})."
        if row["own"] is not None and row["own"]["difference"]["low"] > 0:
            text += f" Through the own surrogate alone it would be {points(row['own']['difference'])}."
        if row["status"] != "ok":
            text += " One of the two figures is inconclusive."
        said.append(text)
    return said


def _through_own(record: Record, tables: dict[str, Any], norm: str) -> dict[str, Any]:
    """The tables of the evaluation without an attack and of the attacks of that norm through the model's own surrogate."""
    kept = {}
    for key, found in tables.items():
        cell = record.plan[key]
        threat = cell["threat"]
        own = is_attack(cell) and threat["norm"] == norm and cell["estimator"] is None and threat["attack"] not in NOT_OWN
        if is_clean(cell) or own:
            kept[key] = found
    return kept


def outcome(own: Json | None, every: Json) -> str:
    """One of `OUTCOMES`, from the paired figures through the own surrogate, if there are some, and under every attack."""
    if every["difference"]["low"] > 0:
        return "survives"
    if every["difference"]["high"] < 0:
        return "worse"
    return "vanishes" if own is not None and own["difference"]["low"] > 0 else "none"


def _row(row: Json) -> list[str]:
    name = "No attack" if row["norm"] is None else ball_text(row["norm"], row["eps"])
    own = ["", "", ""] if row["own"] is None else _figures(row["own"])
    return [name, *own, *_figures(row["all"]), row["status"]]


def _figures(pair: Json) -> list[str]:
    return [*(percent(pair[side]["value"], pair[side]["count"]) for side in ("a", "b")), points(pair["difference"])]


def points(change: Json) -> str:
    """A difference in percentage points with its interval."""
    return f"{100 * change['value']:+.1f} ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
