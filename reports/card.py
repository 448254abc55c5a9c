"""card.md: the part of a model card that an audit can fill in."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from trustsnn.reports.limits import checked, unchecked
from trustsnn.reports.record import Json, Record
from trustsnn.reports.wording import ball_text, bound_text, count_text, interval, measured, median_text, percent, threat_text


def card(record: Record, summary: Json) -> str:
    """The summary as Markdown: verdict, figures with intervals, gates, findings, limits."""
    model, data = summary["model"], summary["data"]
    clean = summary["clean_accuracy"]
    rows = [("No attack", clean)] + [(ball_text(figure["norm"], figure["eps"]), figure) for figure in summary["robust_accuracy"]]
    lines = [
        f"## Robustness of {plain(model['name'])}",
        "",
        f"**Verdict: {summary['verdict']}.** {plain(summary['sentence'])}",
        "",
        *table(
            ("Within", "Accuracy", "95 % interval", "Samples", "Status"),
            [
                (
                    threat,
                    percent(row["value"], row["count"]),
                    interval(row),
                    f"{row['successes']} / {row['count']}",
                    row["status"],
                )
                for threat, row in rows
            ],
        ),
    ]
    lines += ["", *(plain(median_text(curve)) for curve in summary["robust_curves"])] if summary["robust_curves"] else []
    if summary["gates"]:
        gates = [(g["gate"], measured(g["value"], g["bound"]), bound_text(g["bound"]), _holds(g)) for g in summary["gates"]]
        lines += ["", "### Gates", "", *table(("Gate", "Measured", "Bound", "Holds"), gates)]
    lines += _shift(summary)
    findings = []
    for finding in summary["findings"]:
        threat = plain(threat_text(record.plan[finding["cell"]]["threat"]))
        findings.append(f"- **{plain(finding['type'])}** ({threat}): {plain(finding['message'])}")
    lines += ["", "### Findings", "", *(findings or ["None."])]
    lines += ["", "### What was checked", "", *(f"- {plain(text)}" for text in checked(record))]
    lines += ["", "### What was not checked", "", *(f"- {plain(text)}" for text in unchecked(record))]
    lines += [
        "",
        f"Model `{_code(model['hash'])}`, samples `{_code(data['samples_sha256'])}` of {plain(data['name'])}, "
        f"trustsnn {plain(summary['environment']['trustsnn'])}.",
        "",
    ]
    return "\n".join(lines)


def _shift(summary: Json) -> list[str]:
    """The mean corruption error, and how well each score tells the sources of samples outside the distribution."""
    lines: list[str] = []
    if summary["natural_shift"] is not None:
        mean = summary["natural_shift"]["mean_corruption_error"]
        named = len({row["corruption"] for row in summary["natural_shift"]["corruptions"]})
        text = f"{percent(mean['value'], mean['count'])} (95 % interval {interval(mean)}, {mean['count']} samples)"
        lines += ["", "### Natural shift", "", f"Mean corruption error over {count_text(named, 'corruption')}: {text}."]
    if summary["ood"]:
        rows = [
            (each["source"], name, f"{score['auroc']:.3f}", f"{score['low']:.3f} to {score['high']:.3f}", each["status"])
            for each in summary["ood"]
            for name, score in each["scores"].items()
        ]
        lines += ["", "### Out of distribution", "", *table(("Source", "Score", "AUROC", "95 % interval", "Status"), rows)]
    if summary["hardware"]:
        rows = [
            (
                row["twin"],
                threat_text(row["threat"]),
                row["maker"] or "",
                *(_share(row[name]) for name in ("network", "median", "worst")),
            )
            for row in summary["hardware"]
        ]
        head = ("Hardware twin", "Samples", "Made on", "Network", "Median chip", "Worst chip")
        lines += ["", "### On hardware", "", *table(head, rows)]
    return lines


def _share(figure: Json | None) -> str:
    return "" if figure is None else percent(figure["value"], figure["count"])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table; cells are escaped."""
    ruled = [head, ["---"] * len(head)]
    return ["| " + " | ".join(map(str, row)) + " |" for row in ruled] + [
        "| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows
    ]


def plain(value: object) -> str:
    """`value` as Markdown text on one line: no markup of its own, no HTML, no broken table."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)


def _holds(gate: Json) -> str:
    return "yes" if gate["holds"] else "no" if gate["decided"] else "cannot be decided"


def _code(value: object) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", str(value))
