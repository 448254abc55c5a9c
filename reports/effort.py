"""Robust accuracy against the steps or the restarts of an attack, as far as a run has the same attack with several of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trustsnn.canonical import canonical_json
from trustsnn.reports.charts import INK, MUTED, SERIES, in_per_cent, svg
from trustsnn.reports.record import Json, Record, is_attack, is_clean
from trustsnn.reports.wording import attack_text, estimator_text, percent, setting_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SETTINGS = ("steps", "restarts")
STEPS_REACH = 2.5  # times eps, all of them together, where PGD derives their length
MOST = len(SERIES)  # curves of one figure


def effort_curves(record: Record, tables: dict[str, pd.DataFrame]) -> list[Json]:
    """For each attack that was measured with several numbers of steps, or of restarts, and differs in nothing else (a step whose length
    follows from the number is no difference): at each number how many samples it leaves right itself ("own") and how many neither
    it nor a smaller number broke ("worst", which never rises), of all samples. "threat" is what they have in common."""
    from trustsnn.statistics import proportion

    clean = next((key for key in tables if is_clean(record.plan[key])), None)
    if clean is None:
        return []
    right = {key: table.set_index("sample")["correct"].astype(bool) for key, table in tables.items()}
    found = []
    for setting in SETTINGS:
        alike: dict[str, dict[int, str]] = {}
        for key, cell in record.plan.items():
            if key in tables and is_attack(cell) and setting in cell["threat"]:
                rest = _rest(cell["threat"], setting)
                alike.setdefault(canonical_json({**cell, "threat": rest}), {})[int(cell["threat"][setting])] = key
        for cells in alike.values():
            if len(cells) < 2:
                continue
            points: list[Json] = []
            worst = right[clean]
            for number, key in sorted(cells.items()):
                own = right[key] & right[clean]
                worst = worst & own
                left = {name: dict(proportion(int(each.sum()), len(each))) for name, each in (("own", own), ("worst", worst))}
                points.append({"number": number, "cell": key, **left})
            cell = record.plan[points[0]["cell"]]
            common = {"threat": _rest(cell["threat"], setting), "estimator": cell.get("estimator")}
            found.append({"setting": setting, **common, "points": points})
    return found


def _rest(threat: Json, setting: str) -> Json:
    left_out = {setting}
    if setting == "steps" and "step_size" in threat:
        derived = STEPS_REACH * threat["eps"] / threat["steps"]
        left_out |= {"step_size"} if math.isclose(threat["step_size"] or 0.0, derived, rel_tol=1e-9) else set()
    return {name: value for name, value in threat.items() if name not in left_out}


def named(curve: Json, rivals: Sequence[Json]) -> str:
    """The attack of a curve with its estimator, and the settings in which it differs from `rivals` of the same name."""
    same = [each["threat"] for each in rivals if _name(each) == _name(curve)]
    settings = sorted({name for threat in same for name in threat if any(threat.get(name) != each.get(name) for each in same)})
    return ", ".join([_name(curve), *(setting_text(name, curve["threat"].get(name)) for name in settings)])


def _name(curve: Json) -> str:
    return f"{attack_text(curve['threat'])} through {estimator_text(curve['estimator'])}"


def effort(curves: Sequence[Json], clean: float, width: int, prefix: str) -> str:
    """`MOST` curves or fewer of one setting and one ball over a logarithmic axis, each with the band of its "worst"; dotted `clean`, the
    share that is right without an attack. `width` is in CSS pixels."""

    def draw(axes: list[Axes]) -> None:
        panel = axes[0]
        panel.set_xscale("log")
        panel.axhline(100 * clean, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        for colour, curve in zip(SERIES, curves, strict=False):
            at = [point["number"] for point in curve["points"]]
            value, low, high = ([100 * point["worst"][name] for point in curve["points"]] for name in ("value", "low", "high"))
            panel.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
            panel.plot(at, value, "o-", color=colour, linewidth=2.2, markersize=7, clip_on=False)
            last = percent(curve["points"][-1]["worst"]["value"]).replace(" %", "")
            panel.annotate(last, (at[-1], value[-1]), xytext=(8, 4), textcoords="offset points", color=INK, fontsize=12)
        numbers = sorted({point["number"] for curve in curves for point in curve["points"]})
        panel.set_xlim(numbers[0] / 1.1, numbers[-1] * (numbers[-1] / numbers[0]) ** 0.12)
        panel.set_xticks(numbers, map(str, numbers))
        panel.minorticks_off()
        panel.set_xlabel(curves[0]["setting"], color=MUTED)
        in_per_cent(panel)

    return svg(draw, (1, 1), (width, 330 if width > 480 else 260), prefix)
