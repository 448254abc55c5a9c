"""The verdict on an audit, its exit code, and one plain sentence that says why."""

from __future__ import annotations

from trustsnn.reports.record import Json, Record, is_clean
from trustsnn.reports.wording import ball_text, count_text, joined, measured, percent

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}


def decide(record: Record, status: dict[str, str], gates: list[Json]) -> tuple[str, int]:
    """Verdict and exit code. `status` maps each planned cell to ok, inconclusive, error or missing.

    An error, a missing cell or a doubtful clean cell: inconclusive. Else a gate that does not hold, whatever the doubt: fail.
    Else any doubtful cell: inconclusive. Else pass.
    """
    clean = [status[key] for key, cell in record.plan.items() if is_clean(cell)]
    if not clean or any(one != "ok" for one in clean) or {"error", "missing"} & set(status.values()):
        verdict = "inconclusive"
    elif any(_failed(gate) for gate in gates):
        verdict = "fail"
    else:
        verdict = "inconclusive" if "inconclusive" in status.values() else "pass"
    return verdict, EXIT_CODES[verdict]


def sentence(record: Record, status: dict[str, str], summary: Json) -> str:
    """Why the verdict is what it is, in one to three plain sentences."""
    if summary["verdict"] == "inconclusive":
        return _why_not(record, status, summary)
    broken = [gate for gate in summary["gates"] if _failed(gate)]
    if broken:
        first = broken[0]
        text = (
            f"{len(broken)} of {count_text(len(summary['gates']), 'gate')} does not hold: "
            if len(broken) == 1
            else f"{len(broken)} of {count_text(len(summary['gates']), 'gate')} do not hold, the first being: "
        )
        text += f"{first['gate']} was asked for, {measured(first['value'], first['bound'])} was measured."
        doubtful = _of(status, "inconclusive")
        return text + (f" {_doubt(doubtful)}: the true robustness may be lower still." if doubtful else "")
    count = len(summary["gates"])
    held = (
        "No gate was set"
        if not count
        else "The one gate holds"
        if count == 1
        else "Both gates hold"
        if count == 2
        else f"All {count} gates hold"
    )
    return f"{held}, and {_all_done(record)}. {_figures(summary)}"


def _figures(summary: Json) -> str:
    clean = summary["clean_accuracy"]
    text = f"The model classifies {percent(clean['value'], clean['count'])} of {clean['count']} samples correctly"
    widest: dict[str, Json] = {figure["norm"]: figure for figure in summary["robust_accuracy"]}
    parts = [
        f"at most {percent(figure['value'], figure['count'])} under attack within {ball_text(norm, figure['eps'])}"
        for norm, figure in widest.items()
    ]
    return f"{text}, and {joined(parts)}." if parts else f"{text}. No attack was planned."


def _why_not(record: Record, status: dict[str, str], summary: Json) -> str:
    if not record.plan:
        return "Nothing was planned, so there is nothing to judge."
    total = count_text(len(status), "evaluation")
    errors, missing, doubtful = (_of(status, name) for name in ("error", "missing", "inconclusive"))
    if not any(is_clean(cell) for cell in record.plan.values()):
        return "There is no evaluation without an attack, which every robust accuracy rests on."
    parts = []
    if errors:
        parts.append(f"{len(errors)} of {total} ended in an error")
    if missing:
        parts.append(f"{len(missing)} of {total} {'has' if len(missing) == 1 else 'have'} not finished")
    if parts:
        return f"No verdict yet: {joined(parts)}. Run the same audit command again: finished work is kept."
    if any(is_clean(record.plan[key]) for key in doubtful):
        return "No verdict: the evaluation without an attack cannot be trusted, and every other figure rests on it."
    types = sorted({finding["type"] for finding in summary["findings"] if finding["cell"] in doubtful})
    why = f" ({', '.join(types)})" if types else ""
    unclear = [gate["gate"] for gate in summary["gates"] if not gate["holds"]]
    held = " Every gate holds on what was measured." if summary["gates"] else ""
    if unclear:
        held = f" Whether {unclear[0]} holds cannot be decided."
    return (
        f"No verdict: {len(doubtful)} of {total} cannot be trusted{why}, so the true robustness may be lower than measured.{held}"
    )


def _failed(gate: Json) -> bool:
    return not gate["holds"] and bool(gate["decided"])


def _doubt(keys: list[str]) -> str:
    return f"{count_text(len(keys), 'evaluation')} cannot be trusted"


def _all_done(record: Record) -> str:
    return (
        "the one planned evaluation is sound"
        if len(record.plan) == 1
        else f"all {len(record.plan)} planned evaluations are sound"
    )


def _of(status: dict[str, str], name: str) -> list[str]:
    return [key for key, one in status.items() if one == name]
