"""Read a run folder's run.json and cells.jsonl, and refuse what is not one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trustsnn.canonical import sha256_of
from trustsnn.errors import RunError

FORMAT = "trustsnn-run/1"
STATUSES = ("ok", "inconclusive", "error")
_NEEDED = {
    "model": ("name", "hash"),
    "data": ("name", "sha256", "samples_sha256", "count"),
    "environment": ("trustsnn",),
}
_MEND = "Run the same 'trustsnn audit' command again, or name the folder that it wrote."

Json = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What a run folder says: what was asked (`head`, its run.json), the planned cells and the lines of the finished ones."""

    folder: Path
    head: Json
    plan: dict[str, Json]  # key -> cell, in the order of the plan
    lines: dict[str, Json]  # key -> line of cells.jsonl, in the order of the plan

    @property
    def missing(self) -> list[str]:
        """Keys of the planned cells that have no line, in the order of the plan."""
        return [key for key in self.plan if key not in self.lines]


def read(run: Path) -> Record:
    """The record of the run folder `run`.

    A last line of cells.jsonl that was torn by a crash is left out: its cell counts as missing.
    Of two lines for one cell the later one counts.

    Raises:
        RunError: `run` is no run folder, belongs to another format, or is damaged.
    """
    run = Path(run)
    head = _head(run)
    plan = _plan(run, head)
    lines: dict[str, Json] = {}
    for number, line in _raw_lines(run / "cells.jsonl"):
        lines[_checked(run, number, line, plan)] = line
    return Record(run, head, plan, {key: _sound(lines[key]) for key in plan if key in lines})


def with_gates(record: Record, gates: Sequence[str] | None) -> Record:
    """The record with other gates than the run's own; itself for None."""
    return record if gates is None else replace(record, head={**record.head, "gates": list(gates)})


def is_clean(cell: Json) -> bool:
    """Whether a cell is the evaluation without an attack."""
    return kind(cell) == "clean"


def is_attack(cell: Json) -> bool:
    """Whether a cell is the evaluation of an attack."""
    return kind(cell) == "attack"


def kind(cell: Json) -> str:
    """ "clean", "attack", "corruption" or "ood"; "chips" for any of them on a hardware twin."""
    if cell.get("twin") is not None:
        return "chips"
    attack = str(cell["threat"]["attack"])
    return {"none": "clean", "corruption": "corruption", "ood": "ood"}.get(attack, "attack")


def _head(run: Path) -> Json:
    path = run / "run.json"
    try:
        head = _loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"Expected a run folder with a run.json, got {run}: {error.strerror or error}. {_MEND}") from error
    except ValueError as error:
        raise RunError(f"Expected JSON in {path}, got something else ({error}). {_MEND}") from error
    found = head.get("format") if isinstance(head, dict) else type(head).__name__
    if found != FORMAT:
        raise RunError(f"Expected the format '{FORMAT}' in {path}, got {found!r}. {_MEND}")
    for key, kind in {"config": dict, "model": dict, "data": dict, "environment": dict, "gates": list, "cells": list}.items():
        if not isinstance(head.get(key), kind):
            raise RunError(f"Expected a {kind.__name__} under '{key}' in {path}, got {type(head.get(key)).__name__}. {_MEND}")
    for key, names in _NEEDED.items():
        lacking = [name for name in names if name not in head[key]]
        if lacking:
            raise RunError(f"Expected {', '.join(names)} under '{key}' in {path}; {', '.join(lacking)} not found. {_MEND}")
    return dict(head)


def _plan(run: Path, head: Json) -> dict[str, Json]:
    plan: dict[str, Json] = {}
    for place, entry in enumerate(head["cells"]):
        cell = entry.get("cell") if isinstance(entry, dict) else None
        threat = cell.get("threat") if isinstance(cell, dict) else None
        if not isinstance(cell, dict) or not isinstance(threat, dict) or not _is_threat(threat) or not _is_twin(cell.get("twin")):
            raise RunError(
                f"Expected a cell with a threat (attack, norm, eps), and a twin (line, maker) or none, at cells[{place}] of "
                f"{run / 'run.json'}. {_MEND}"
            )
        # The key names files in the folder, so it is only trusted when it is the hash of its cell.
        if entry.get("key") != sha256_of(cell):
            raise RunError(
                f"Expected the SHA-256 of the cell as key of cells[{place}] in {run / 'run.json'}, got {entry.get('key')!r}: "
                f"the file was changed after it was written. {_MEND}"
            )
        plan[entry["key"]] = cell
    return plan


def _is_threat(threat: Json) -> bool:
    eps, norm = threat.get("eps"), threat.get("norm")
    return isinstance(threat.get("attack"), str) and isinstance(eps, int | float) and isinstance(norm, str | None)


def _is_twin(twin: Any) -> bool:
    if twin is None:
        return True
    return isinstance(twin, dict) and isinstance(twin.get("line"), str) and isinstance(twin.get("maker"), str | None)


def _raw_lines(path: Path) -> list[tuple[int, Json]]:
    if not path.exists():
        return []
    try:
        pieces = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"Expected to read {path}, got: {error.strerror or error}. Check the folder's permissions.") from error
    lines = []
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        try:
            lines.append((number, _loads(piece)))
        except ValueError as error:
            if number == len(pieces):  # no newline follows: the crash came in the middle of this write
                continue
            raise RunError(
                f"Expected one JSON object in line {number} of {path}, got a damaged line ({error}). {_MEND}"
            ) from error
    return lines


def _checked(run: Path, number: int, line: Any, plan: dict[str, Json]) -> str:
    where = f"line {number} of {run / 'cells.jsonl'}"
    if not isinstance(line, dict) or line.get("status") not in STATUSES:
        raise RunError(f"Expected a finished cell with a status among {', '.join(STATUSES)} in {where}. {_MEND}")
    key = line.get("key")
    if not isinstance(key, str) or key not in plan:
        raise RunError(f"Expected a cell of this run's plan in {where}, got the key {key!r}: it belongs to another run. {_MEND}")
    for name in ("reasons", "spike_rates"):
        entries = line.setdefault(name, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise RunError(f"Expected a list of objects under '{name}' in {where}. {_MEND}")
    line["cell"] = plan[key]
    return key


def _sound(line: Json) -> Json:
    """`line`, or an error in its place when its figure is not a number (a NaN is never passed on as one)."""
    accuracy = line.get("accuracy")
    if line["status"] == "error":
        return {**line, "accuracy": None}
    detection, chips = line.get("detection"), line.get("chips")
    if kind(line["cell"]) == "chips":
        if isinstance(chips, dict) and _are_chips(chips):
            return line
    elif kind(line["cell"]) == "ood":
        if isinstance(detection, dict) and detection and all(map(_is_detection, detection.values())):
            return line
    elif _is_figure(accuracy):
        return line
    reason = {
        "type": "no-figure",
        "message": "This evaluation recorded no figure that is a number.",
        "evidence": {"accuracy": accuracy, "detection": detection, "chips": chips},
        "threshold": None,
        "source": None,
    }
    return {**line, "status": "error", "accuracy": None, "reasons": [*line["reasons"], reason]}


def _is_figure(value: Any) -> bool:
    return isinstance(value, dict) and all(_finite(value.get(name)) for name in ("value", "successes", "count", "low", "high"))


def _is_detection(value: Any) -> bool:
    named = ("auroc", "low", "high", "inside", "outside")
    return isinstance(value, dict) and all(_finite(value.get(name)) for name in named) and _is_figure(value.get("fpr_at_95_tpr"))


def _are_chips(value: Json) -> bool:
    counts = value.get("correct")
    return (
        isinstance(counts, list)
        and bool(counts)
        and all(_finite(each) for each in [*counts, value.get("network"), value.get("count")])
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _loads(text: bytes) -> Any:
    """JSON with NaN and infinity read as null."""
    return json.loads(text.decode("utf-8"), parse_constant=lambda _: None)
