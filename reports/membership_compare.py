"""Two membership runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trustsnn.errors import ConfigError
from trustsnn.reports.membership import FORMAT, title


def read(path: Path) -> dict[str, Any]:
    """The record of a run, from its folder or its membership.json. ConfigError where there is none."""
    path = path / "membership.json" if path.is_dir() else path
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Expected the membership.json of a run at {path}: {error}") from error
    if record.get("format") != FORMAT:
        raise ConfigError(f"Expected the format {FORMAT!r} in {path}, got {record.get('format')!r}.")
    return record


def compared(one: dict[str, Any], other: dict[str, Any], tolerance: float, *, unmatched: bool = False) -> list[str]:
    """A line an attack that both have: AUC and members found at 1 % false alarms, and whether the intervals of the AUC are apart.

    Raises:
        ConfigError: the training accuracies differ by more than `tolerance` and `unmatched` is not set, or the pools are not the same.
    """
    accuracies = [record["gap"]["train"]["value"] for record in (one, other)]
    if abs(accuracies[0] - accuracies[1]) > tolerance and not unmatched:
        raise ConfigError(
            f"Expected models of like training accuracy (within {100 * tolerance:g} points), got {100 * accuracies[0]:.1f} % and "
            f"{100 * accuracies[1]:.1f} %: a model that fits its data more closely leaks more, whatever its kind. Train both with --stop-at, or pass "
            "--unmatched."
        )
    if one["data"]["samples_sha256"] != other["data"]["samples_sha256"]:
        raise ConfigError(
            "Expected two runs on the same pool of samples, got different ones. Use the same data, --samples and --seed."
        )
    theirs = {row["name"]: row for row in other["attacks"]}
    found = [
        f"training accuracy {100 * accuracies[0]:.1f} % and {100 * accuracies[1]:.1f} %"
        + (
            ", NOT matched: the difference says nothing of the kind of model"
            if abs(accuracies[0] - accuracies[1]) > tolerance
            else ""
        )
    ]
    for row in one["attacks"]:
        if row["name"] in theirs:
            pair = [row, theirs[row["name"]]]
            areas = [f"{each['auc']['value']:.3f} ({each['auc']['low']:.3f} to {each['auc']['high']:.3f})" for each in pair]
            shares = [f"{100 * each['tpr'][-1]['value']:.1f} %" for each in pair]
            apart = pair[0]["auc"]["low"] > pair[1]["auc"]["high"] or pair[1]["auc"]["low"] > pair[0]["auc"]["high"]
            found.append(
                f"{title(row['name'])}: AUC {' and '.join(areas)}{', apart' if apart else ''}; at 1 % {' and '.join(shares)}"
            )
    return found
