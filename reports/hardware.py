"""Figures on hardware twins: how many samples the chips of one kind classify correctly."""

from __future__ import annotations

import math

from trustsnn.reports.record import Json, Record, kind


def on_hardware(record: Record, lines: dict[str, Json], status: dict[str, str]) -> list[Json]:
    """A row for each cell on chips, in the order of the plan.

    `median` and `worst` are the accuracy of the median chip and of the worst, `chips` those of all in ascending order, each with the
    Wilson interval over the samples. `over_chips` is the 95 % interval of the median over chips of that kind (order statistics; None
    for fewer than six chips). `network` is the network itself on the same samples. `maker` says what adversarial samples were made on:
    the network, or the first chip, whose own accuracy is then `maker_accuracy` and which is not among `chips`. `time` is that since the
    weights were programmed, in seconds, where the chips age.
    """
    from trustsnn.statistics import median, proportion

    rows = []
    for key, cell in record.plan.items():
        if kind(cell) != "chips":
            continue
        row: Json = {"twin": cell["twin"]["line"], "maker": cell["twin"]["maker"], "threat": cell["threat"], "cell": key}
        row |= {
            "status": status[key],
            "time": _time(cell["twin"]),
            "median": None,
            "worst": None,
            "network": None,
            "maker_accuracy": None,
            "over_chips": None,
            "chips": [],
        }
        found = lines[key].get("chips") if status[key] in ("ok", "inconclusive") else None
        if found:
            correct, count = found["correct"], found["count"]
            row["network"] = dict(proportion(found["network"], count))
            if row["maker"] == "chip":
                row["maker_accuracy"] = dict(proportion(correct[0], count))
                correct = correct[1:]
            if correct:
                row["chips"] = [dict(proportion(each, count)) for each in sorted(correct)]
                row["worst"] = row["chips"][0]
                row["median"] = row["chips"][(len(correct) - 1) // 2]
                middle = median([each / count for each in sorted(correct)])
                row["over_chips"] = {"low": middle.low, "high": middle.high} if middle.high <= 1 else None
        rows.append(row)
    return rows


def _time(twin: Json) -> float | None:
    parts = twin.get("parts")
    times = [part["time"] for part in parts if isinstance(part, dict) and "time" in part] if isinstance(parts, list) else []
    time = times[0] if len(times) == 1 else None
    known = isinstance(time, int | float) and not isinstance(time, bool) and math.isfinite(time) and time >= 0
    return time if known else None
