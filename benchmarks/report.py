"""What a benchmark leaves: tables, printed as they are made, and JSON with the command, the machine and every round."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import Quartiles, ratios

from trustsnn.runners.environment import environment
from trustsnn.statistics import Figure, proportion


class Report:
    """Tables that are printed as they are made, and kept in a JSON file with the command and the machine."""

    def __init__(self, title: str, given: argparse.Namespace) -> None:
        self.path: Path | None = given.json
        self.content: dict[str, Any] = {
            "title": title,
            "command": _command(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": given.threads,
            "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
            "environment": environment(),
            "sections": [],
        }
        print(f"# {title}\n")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", raw: Any = None) -> None:
        """A table of texts; `raw` keeps the numbers behind it."""
        section = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows], "note": note, "raw": raw}
        self.content["sections"].append(section)
        print(markdown(section), flush=True)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.content, indent=1) + "\n")

    def timings(
        self,
        title: str,
        seconds: Mapping[str, list[float]],
        *,
        peers: Sequence[str],
        note: str = "",
        extra: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Medians, and how many times faster each is than the first peer and than the fastest one, each with quartiles.

        Without peers the first contender stands for them. `extra` has more columns by heading and contender.
        """
        if not seconds:
            print(f"{title}: there was nothing to time.", file=sys.stderr)
            return
        extra = extra or {}
        peers = [name for name in peers if name in seconds]
        first = peers[0] if peers else next(iter(seconds))
        best = min(peers or [first], key=lambda name: statistics.median(seconds[name]))
        columns = ["", "median", f"times {first} (quartiles)"]
        if best != first:
            columns.append(f"times the best peer, {best}")
        rows = []
        for name, values in seconds.items():
            row = [name, _duration(statistics.median(values)), _spread(ratios(seconds, name, first))]
            if best != first:
                row.append(_spread(ratios(seconds, name, best)))
            rows.append(row + [cells.get(name, "") for cells in extra.values()])
        rounds = len(next(iter(seconds.values())))
        self.table(
            title, [*columns, *extra], rows, f"{rounds} round{'s' * (rounds > 1)}. {note}".strip(), {"seconds": dict(seconds)}
        )


def markdown(section: Mapping[str, Any], level: int = 2) -> str:
    """A section as Markdown, its title at that level."""
    lines = [f"{'#' * level} {section['title']}", ""]
    lines += ["| " + " | ".join(section["columns"]) + " |", "|" + "---|" * len(section["columns"])]
    lines += ["| " + " | ".join(row) + " |" for row in section["rows"]]
    if section["note"]:
        lines += ["", section["note"]]
    return "\n".join(lines) + "\n"


def share(figure: Figure, digits: int = 1, *, counted: bool = False) -> str:
    """A proportion in per cent with its 95 % interval, and with what it was counted from."""
    of = f"{figure['successes']:,} of {figure['count']:,}; " if counted else ""
    return f"{figure['value']:.{digits}%} ({of}{figure['low']:.{digits}%} to {figure['high']:.{digits}%})"


def share_of(successes: int, count: int) -> str:
    """`share` of a count, which may be zero."""
    return share(proportion(successes, count)) if count else "of none"


def mebibytes(peaks: Sequence[int | None]) -> str:
    """The median of some peaks with the lowest and the highest, or that they were not measured."""
    known = sorted(peak / 2**20 for peak in peaks if peak is not None)
    if not known:
        return "not measured"
    return f"{statistics.median(known):.0f} MiB ({known[0]:.0f} to {known[-1]:.0f})"


def _spread(value: Quartiles) -> str:
    return f"{value.median:.2f} ({value.low:.2f} to {value.high:.2f})"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.{0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2}f} ms"


def _command() -> str:
    words = iter([Path(sys.argv[0]).name, *sys.argv[1:]])
    kept = [word for word in words if not word.startswith("--json=") and not (word == "--json" and next(words, ""))]
    return shlex.join(["python", f"benchmarks/{kept[0]}", *kept[1:]])


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
