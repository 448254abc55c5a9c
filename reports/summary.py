"""A run folder in, the content of report.json out: figures, findings, gates, verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustsnn.reports import gates as gating
from trustsnn.reports.effort import effort_curves
from trustsnn.reports.evidence import robust, robust_curves
from trustsnn.reports.hardware import on_hardware
from trustsnn.reports.record import Json, Record, is_attack, is_clean, read, with_gates
from trustsnn.reports.samples import outcomes
from trustsnn.reports.shift import natural_shift, out_of_distribution
from trustsnn.reports.verdict import decide, sentence

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "trustsnn-report/1"


def summarise(run: Path, gates: Sequence[str] | None = None) -> Json:
    """The content of report.json (docs/run-format.md) for the run folder `run`.

    A sample is robust at (norm, eps) when no cell of that norm, whatever its eps, nor the clean cell holds a misclassified
    version of it within eps. A figure that nothing was measured for has the value None, never a number. `gates`, where given,
    are held instead of the run's own.

    Raises:
        RunError: the folder is no run folder, or is damaged.
        ConfigError: a gate asks for what was not planned.
    """
    return summarise_record(with_gates(read(run), gates))


def summarise_record(record: Record) -> Json:
    """`summarise` for a record that was read already."""
    tables = outcomes(record)
    lines = {key: _doubted(line, tables.get(key)) for key, line in record.lines.items()}
    missing = [key for key in record.plan if key not in lines or (lines[key]["accuracy"] is not None and key not in tables)]
    correct = {key: _by_sample(table) for key, table in tables.items()}
    status = {key: "missing" if key in missing else lines[key]["status"] for key in record.plan}

    summary: Json = {
        "format": FORMAT,
        "clean_accuracy": _clean(record, tables, status),
        "robust_accuracy": _robust(record, tables, status),
        "robust_curves": robust_curves(record, tables),
        "effort_curves": effort_curves(record, tables),
        "natural_shift": natural_shift(record, correct, status),
        "ood": out_of_distribution(record, lines, status),
        "hardware": on_hardware(record, lines, status),
        "findings": [_finding(key, reason) for key, line in lines.items() for reason in line["reasons"]],
        "cells": list(lines.values()),
        **{name: record.head[name] for name in ("model", "data", "environment", "config")},
    }
    gates = [gating.parse(text) for text in record.head["gates"]]
    gating.check_planned(gates, planned(record), corruptions=summary["natural_shift"] is not None)
    summary["gates"] = [gate.check(summary) for gate in gates]
    summary["verdict"], summary["exit_code"] = decide(record, status, summary["gates"])
    summary["sentence"] = sentence(record, status, summary)
    return summary


def planned(record: Record) -> list[tuple[str, float]]:
    """The audited (norm, eps), norms in the order of the plan, eps ascending; eps equal to 1e-9 are one."""
    found: dict[str, list[float]] = {}
    for cell in record.plan.values():
        norm, eps = cell["threat"]["norm"], float(cell["threat"]["eps"])
        if norm is not None and is_attack(cell):
            known = found.setdefault(norm, [])
            if not any(_same(eps, other) for other in known):
                known.append(eps)
    return [(norm, eps) for norm, values in found.items() for eps in sorted(values)]


def resting_on(record: Record, norm: str | None, eps: float) -> list[str]:
    """Keys of the cells that the figure at (norm, eps) rests on: the clean ones, and every one of that norm within eps."""
    return [key for key, cell in record.plan.items() if is_clean(cell) or _within(cell, norm, eps)]


def _clean(record: Record, tables: dict[str, Any], status: dict[str, str]) -> Json:
    keys = resting_on(record, None, 0.0)
    return {**_figure(record, tables, None, 0.0, any(key in tables for key in keys)), "status": _status(keys, status)}


def _robust(record: Record, tables: dict[str, Any], status: dict[str, str]) -> list[Json]:
    clean = set(resting_on(record, None, 0.0))
    figures = []
    for norm, eps in planned(record):
        keys = resting_on(record, norm, eps)
        here = [key for key in keys if key not in clean and _same(record.plan[key]["threat"]["eps"], eps)]
        # Without the clean cell, or with no cell at this very eps, there is no figure: a smaller ball says too little.
        measured = any(key in tables for key in here) and any(key in tables for key in clean)
        figure = _figure(record, tables, norm, eps, measured)
        figures.append({"norm": norm, "eps": eps, **figure, "status": _status(keys, status), "cells": keys})
    return figures


def _figure(record: Record, tables: dict[str, Any], norm: str | None, eps: float, measured: bool) -> Json:
    from trustsnn.statistics import proportion

    if measured:
        kept = robust(record, tables, norm, eps)
        if len(kept):
            return dict(proportion(int(kept.sum()), len(kept)))
    return {"value": None, "successes": 0, "count": 0, "low": None, "high": None}


def _status(keys: list[str], status: dict[str, str]) -> str:
    return "ok" if keys and all(status[key] == "ok" for key in keys) else "inconclusive"


def _doubted(line: Json, table: pd.DataFrame | None) -> Json:
    """`line`, inconclusive when a sample's margin is NaN: its prediction then came from no comparison of numbers."""
    if table is None or line["status"] == "error":
        return line
    count = int(table["margin"].isna().sum())
    if not count:
        return line
    reason = {
        "type": "not-a-number",
        "message": f"The model's output for {count} of {len(table)} samples is not a number, so their predictions mean nothing.",
        "evidence": {"samples": count, "count": len(table)},
        "threshold": 0,
        "source": "trustsnn: a NaN is never counted as a number",
    }
    return {**line, "status": "inconclusive", "reasons": [*line["reasons"], reason]}


def _finding(key: str, reason: Json) -> Json:
    texts: Json = {
        "type": "unnamed",
        "message": "No explanation was recorded.",
        "evidence": {},
        "threshold": None,
        "source": None,
    }
    return {"cell": key, **{name: reason.get(name, default) for name, default in texts.items()}}


def _by_sample(table: pd.DataFrame) -> pd.Series[bool]:
    return table.set_index("sample")["correct"].astype(bool)


def _within(cell: Json, norm: str | None, eps: float) -> bool:
    threat = cell["threat"]
    return norm is not None and threat["norm"] == norm and threat["eps"] <= eps + gating.TOLERANCE


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= gating.TOLERANCE
