"""report.html: one page that carries everything it shows, asks nothing of the network and runs no script."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from trustsnn.reports import charts, limits, wording
from trustsnn.reports.drift import by_time, drift
from trustsnn.reports.effort import MOST, effort, named
from trustsnn.reports.gates import parse
from trustsnn.reports.pictures import gallery
from trustsnn.reports.record import Json, Record, is_attack, is_clean, kind

_TEMPLATES = Path(__file__).parent / "templates"
_WIDE, _NARROW = 820, 340
_MOST_LAYERS = 40


def page(record: Record, summary: Json) -> str:
    """The summary as one HTML page. Equal run folders give equal bytes.

    Raises:
        RunError: a file of pictures is damaged.
    """
    return render(
        "report.html.j2",
        report=summary,
        facts=_facts(summary),
        curves=_curves(summary),
        efforts=_efforts(summary),
        galleries=_galleries(record, summary),
        spikes=_spikes(record, summary),
        findings=[{**finding, "threat": record.plan[finding["cell"]]["threat"]} for finding in summary["findings"]],
        checked=limits.checked(record),
        unchecked=limits.unchecked(record),
        drifts=_drifts(summary),
        shift=_shift(summary),
        rows=_rows(record, summary),
        ensembles=_ensembles(summary),
        command=_command(summary["config"]),
    )


def render(template: str, **values: Any) -> str:
    """A template filled with `values`, with the filters and the style sheet of every page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for name in (
        "percent",
        "interval",
        "range_text",
        "chips_text",
        "measured",
        "bound_text",
        "ball_text",
        "threat_text",
        "attack_text",
    ):
        environment.filters[name] = getattr(wording, name)
    environment.filters["parameters"] = wording.parameters_text
    environment.filters["estimator"] = wording.estimator_text
    environment.filters["json"] = lambda value: json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False)
    environment.filters["thousands"] = _thousands
    environment.filters["tied"] = lambda text: re.sub(r"(?<=\d) %", "\u00a0%", text)
    environment.filters["number"] = lambda value: f"{value:.4g}" if isinstance(value, float) else value
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    text = environment.get_template(template).render(style=style, **values)
    return text if text.endswith("\n") else text + "\n"


def _facts(summary: Json) -> list[str]:
    """The model and the data in a few words, for the line below the title."""
    model, data = summary["model"], summary["data"]
    spec = model.get("spec") or {}
    facts = []
    if isinstance(model.get("parameters"), int):
        facts.append(f"{_thousands(model['parameters'])} parameters")
    if spec.get("steps"):
        facts.append(wording.count_text(spec["steps"], "time step"))
    if spec.get("encoder"):
        facts.append(f"{spec['encoder']} encoding")
    split = f" ({data['split']})" if data.get("split") else ""
    facts.append(f"{wording.count_text(data.get('count', 0), 'sample')} of {data.get('name', 'unnamed data')}{split}")
    return facts


def _curves(summary: Json) -> dict[str, Any] | None:
    from markupsafe import Markup

    figures = [figure for figure in summary["robust_accuracy"] if figure["value"] is not None]
    clean = summary["clean_accuracy"]
    if not figures or clean["value"] is None:
        return None
    classes = (summary["model"].get("spec") or {}).get("classes")
    gates = [parse(gate["gate"]) for gate in summary["gates"]]
    bounds = [(gate.norm, gate.eps, gate.bound) for gate in gates if gate.norm is not None]
    steps = {curve["norm"]: curve["points"] for curve in summary["robust_curves"]}
    drawn = (clean, figures, 1 / classes if classes else None, bounds)
    label = [f"Share of samples classified correctly: {wording.percent(clean['value'])} without an attack"]
    label += [f"{wording.percent(f['value'])} within {wording.ball_text(f['norm'], f['eps'])}" for f in figures]
    return {
        "label": ", ".join(label) + ".",
        "wide": Markup(charts.curve(*drawn, width=_WIDE, steps=steps)),
        "narrow": Markup(charts.curve(*drawn, width=_NARROW, steps=steps)),
        "straight": any(figure["norm"] not in steps for figure in figures),
        "bounds": bool(bounds),
        "medians": [wording.median_text(curve) for curve in summary["robust_curves"]],
        "doubtful": any(figure["status"] != "ok" for figure in [clean, *figures]),
    }


def _efforts(summary: Json) -> list[dict[str, Any]]:
    """For each setting and ball the curves over its numbers, drawn together."""
    from markupsafe import Markup

    together: dict[tuple[str, str, float], list[Json]] = {}
    for curve in summary["effort_curves"]:
        together.setdefault((curve["setting"], curve["threat"]["norm"], curve["threat"]["eps"]), []).append(curve)
    found = []
    figures = [(at, rivals, i) for at, rivals in together.items() for i in range(0, len(rivals), MOST)]
    for place, ((setting, norm, eps), rivals, begin) in enumerate(figures):
        curves = rivals[begin : begin + MOST]
        drawn = (curves, summary["clean_accuracy"]["value"])
        wide, narrow = (Markup(effort(*drawn, width, f"effort-{place}-{width}")) for width in (_WIDE, _NARROW))
        title = f"{setting.capitalize()}, {wording.ball_text(norm, eps)}"
        found.append(
            {"title": title, "curves": [(named(each, rivals), each["points"]) for each in curves], "wide": wide, "narrow": narrow}
        )
    return found


def _strongest(record: Record, summary: Json, norm: str, eps: float) -> Json | None:
    """The finished cell at (norm, eps) that leaves the fewest samples correct; the last of the plan among equals."""
    lines = [line for line in summary["cells"] if line["accuracy"] and is_attack(line["cell"])]
    here = [line for line in lines if line["cell"]["threat"]["norm"] == norm and abs(line["cell"]["threat"]["eps"] - eps) <= 1e-9]
    return min(reversed(here), key=lambda line: line["accuracy"]["value"], default=None)


def _galleries(record: Record, summary: Json) -> list[dict[str, Any]]:
    """Pictures of the strongest attack at each (norm, eps)."""
    classes = summary["data"].get("classes") or []
    found = []
    for figure in summary["robust_accuracy"]:
        line = _strongest(record, summary, figure["norm"], figure["eps"])
        if line is None:
            continue
        full = figure["eps"] if figure["norm"] == "linf" else None
        drawn = gallery(record.folder / "cells" / f"{line['key']}.npz", full)
        if drawn is not None:
            pictures = [
                {
                    "sample": picture.sample,
                    "label": _class(classes, picture.label),
                    "clean_prediction": _class(classes, picture.clean_prediction),
                    "prediction": _class(classes, picture.prediction),
                    "before": picture.clean_prediction == picture.label,
                    "after": picture.prediction == picture.label,
                    "clean": picture.clean,
                    "adversarial": picture.adversarial,
                    "difference": picture.difference,
                }
                for picture in drawn.pictures
            ]
            found.append(
                {
                    "threat": line["cell"]["threat"],
                    "channels": drawn.channels,
                    "scale": drawn.scale,
                    "events": drawn.events,
                    "pictures": pictures,
                }
            )
    return found


def _drifts(summary: Json) -> list[dict[str, Any]]:
    from markupsafe import Markup

    found = []
    for place, (name, rows) in enumerate(by_time(summary["hardware"]).items()):
        wide, narrow = (Markup(drift(rows, width, f"drift-{place}-{width}")) for width in (_WIDE, _NARROW))
        found.append({"kind": name, "wide": wide, "narrow": narrow})
    return found


def _spikes(record: Record, summary: Json) -> dict[str, Any] | None:
    """Spike rates per layer: clean, and under the strongest attack at the largest eps of each norm."""
    from markupsafe import Markup

    clean = next((line for line in summary["cells"] if is_clean(line["cell"]) and line["spike_rates"]), None)
    if clean is None:
        return None
    widest = {figure["norm"]: figure["eps"] for figure in summary["robust_accuracy"]}
    attacked = [line for norm, eps in widest.items() if (line := _strongest(record, summary, norm, eps)) and line["spike_rates"]]
    layers = [str(entry.get("layer")) for entry in clean["spike_rates"]][:_MOST_LAYERS]
    series = []
    for line in [clean, *attacked[:3]]:
        rates = {str(entry.get("layer")): entry.get("rate") for entry in line["spike_rates"]}
        series.append((wording.threat_text(line["cell"]["threat"]), [rates.get(layer) for layer in layers]))
    return {
        "label": _spoken(layers, series),
        "series": series,
        "left_out": len(clean["spike_rates"]) - len(layers),
        "wide": Markup(charts.bars(layers, series, width=_WIDE)),
        "narrow": Markup(charts.bars(layers, series, width=_NARROW)),
    }


def _spoken(layers: list[str], series: list[tuple[str, list[float | None]]]) -> str:
    """The bars in words, for a screen reader."""
    spoken = []
    for place, layer in enumerate(layers):
        rates = [f"{name} {rates[place]:.3f}" for name, rates in series if rates[place] is not None]
        spoken.append(f"{layer}: {', '.join(rates)}")
    return "Spikes per neuron and time step. " + "; ".join(spoken) + "."


def _rows(record: Record, summary: Json) -> list[dict[str, Any]]:
    lines = {line["key"]: line for line in summary["cells"]}
    missing = {"status": "missing", "accuracy": None}
    cells = {key: cell for key, cell in record.plan.items() if kind(cell) in ("clean", "attack")}
    return [{"key": key, "cell": cell, **_shown(lines.get(key, missing))} for key, cell in cells.items()]


def _shift(summary: Json) -> dict[str, Any] | None:
    """The corruptions as a table: severities across, for each corruption its mean error and its figures."""
    found = summary["natural_shift"]
    if found is None:
        return None
    severities = sorted({row["severity"] for row in found["corruptions"]})
    rows: dict[str, dict[int, Json]] = {}
    for row in found["corruptions"]:
        rows.setdefault(row["corruption"], {})[row["severity"]] = row
    return {"severities": severities, "rows": rows, "mean": found["mean_corruption_error"]}


def _ensembles(summary: Json) -> list[dict[str, Any]]:
    """What each attack of an ensemble tried and broke, for each (norm, eps)."""
    found = []
    for line in summary["cells"]:
        members = line["diagnostics"].get("members")
        if isinstance(members, list) and members:
            found.append({"threat": line["cell"]["threat"], "members": members})
    return found


def _shown(line: Json) -> Json:
    return {"status": line["status"], "accuracy": line["accuracy"]}


def _class(names: list[Any], index: int) -> str:
    return str(names[index]) if 0 <= index < len(names) else str(index)


def _command(config: Json) -> str | None:
    command = config.get("command")
    if isinstance(command, list):
        return shlex.join(map(str, command))
    return str(command) if command else None


def _thousands(value: object) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)
