"""What the evaluations of a run prove about each sample: the smallest perturbation of a norm that is known to break it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trustsnn.reports.gates import TOLERANCE
from trustsnn.reports.record import Json, Record, is_attack, is_clean

if TYPE_CHECKING:
    import pandas as pd

SEARCH = "bisection"
"""The attack that looks for the smallest perturbation of each sample. Others use up their eps, and say little below it."""

MOST_POINTS = 100


def smallest(record: Record, tables: dict[str, pd.DataFrame], norm: str | None) -> pd.Series[float]:
    """For each sample the smallest eps of that norm that is known to break it, over the clean cell and every measured attack:
    0 without a perturbation, infinity where nothing did. A misclassified sample proves the size that it has, which is at most
    the eps of its attack; where sizes of that norm are not kept, it counts at that eps."""
    import pandas as pd

    proofs = []
    for key, table in tables.items():
        cell = record.plan[key]
        eps = float(cell["threat"]["eps"])
        if is_clean(cell):
            at = pd.Series(0.0, index=table.index)
        elif is_attack(cell) and cell["threat"]["norm"] == norm:
            sizes = table[norm].astype(float) if norm in ("linf", "l2") else pd.Series(eps, index=table.index)
            at = sizes.fillna(eps).clip(upper=eps)
        else:
            continue
        proofs.append(at.where(~table["correct"].astype(bool), math.inf).set_axis(table["sample"]))
    return pd.concat(proofs, axis=1).min(axis=1)


def robust(record: Record, tables: dict[str, pd.DataFrame], norm: str | None, eps: float) -> pd.Series[bool]:
    """Which samples nothing is known to break within eps, indexed by sample; for the norm None, without an attack."""
    return smallest(record, tables, norm) > eps + TOLERANCE


def robust_curves(record: Record, tables: dict[str, pd.DataFrame]) -> list[Json]:
    """For each norm with a measured search: robust accuracy against eps up to the largest eps that was searched, as a step
    function, and the median of the smallest eps (its value or an end is None where it lies above)."""
    from trustsnn.statistics import median, proportion

    found = []
    for key in tables:
        threat = record.plan[key]["threat"]
        if threat["attack"] == SEARCH and any(is_clean(record.plan[other]) for other in tables):
            eps = sorted(smallest(record, tables, threat["norm"]).tolist())
            largest = float(threat["eps"])
            places = sorted({0.0, *(each for each in eps if each <= largest), largest})
            if len(places) > MOST_POINTS:
                places = [places[round(i * (len(places) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
            points = [{"eps": at, **proportion(sum(each > at + TOLERANCE for each in eps), len(eps))} for at in places]
            middle = {name: value if value <= largest else None for name, value in median(eps)._asdict().items()}
            found.append({"norm": threat["norm"], "largest": largest, "median": {**middle, "count": len(eps)}, "points": points})
    return found
