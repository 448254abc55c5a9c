"""Figures without an adversary: the accuracy under natural corruptions, and how well samples of another kind are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustsnn.reports.record import Json, Record, kind

if TYPE_CHECKING:
    import pandas as pd


def natural_shift(record: Record, correct: dict[str, pd.Series[bool]], status: dict[str, str]) -> Json | None:
    """The accuracy at each corruption and severity in the order of the plan, and the mean corruption error; None if none was
    planned. `correct` holds the outcomes of each measured cell by sample, `status` the state of each planned one."""
    from trustsnn.statistics import proportion

    rows = []
    for key, cell in record.plan.items():
        if kind(cell) == "corruption":
            own = correct.get(key)
            figure = {"value": None, "successes": 0, "count": 0, "low": None, "high": None}
            measured = figure if own is None else dict(proportion(int(own.sum()), len(own)))
            named = {name: cell["threat"][name] for name in ("corruption", "severity")}
            rows.append({**named, **measured, "status": status[key], "cell": key})
    return {"corruptions": rows, "mean_corruption_error": _mean_error(rows)} if rows else None


def _mean_error(rows: list[Json]) -> Json:
    """The mean over corruptions of the error, each averaged over its severities; its interval counts samples, not evaluations.
    Without a value where any of them is missing."""
    from trustsnn.statistics import wilson_of_mean

    status = "ok" if all(row["status"] == "ok" for row in rows) else "inconclusive"
    if any(row["value"] is None for row in rows):
        return {"value": None, "low": None, "high": None, "count": 0, "errors": {}, "status": "inconclusive"}
    by_name: dict[str, list[float]] = {}
    for row in rows:
        by_name.setdefault(row["corruption"], []).append((row["count"] - row["successes"]) / row["count"])
    count = rows[0]["count"]
    means = {name: sum(each) / len(each) for name, each in by_name.items()}

    def figure(value: float) -> Json:
        low, high = wilson_of_mean(value, count)
        return {"value": value, "low": low, "high": high, "count": count}

    errors = {name: figure(value) for name, value in means.items()}
    return {**figure(sum(means.values()) / len(means)), "errors": errors, "status": status}


def out_of_distribution(record: Record, lines: dict[str, Json], status: dict[str, str]) -> list[Json]:
    """The detection figures of each source of samples, in the order of the plan; without scores where nothing was measured."""
    found = []
    for key, cell in record.plan.items():
        if kind(cell) == "ood":
            scores = lines[key].get("detection") if status[key] in ("ok", "inconclusive") else None
            found.append({"source": cell["threat"].get("source"), "scores": scores or {}, "status": status[key], "cell": key})
    return found
