"""Several leakage runs as one report: one verdict in words, gates on their figures, and one page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from trustsnn.errors import ConfigError, RunError
from trustsnn.reports.html import render
from trustsnn.reports.leakage_kinds import FOUND, KINDS, NOTHING, UNCLEAR, Finding, shown
from trustsnn.reports.leakage_parts import PARTS
from trustsnn.reports.verdict import EXIT_CODES
from trustsnn.reports.wording import joined

Json = dict[str, Any]

FORMAT = "trustsnn-leakage-report/1"
_GATE = re.compile(
    r"\s*(?:(?P<upper>upper)\s*\(\s*)?(?P<kind>[a-z]+)\s*(?(upper)\)\s*)(?P<operator><=|<)\s*(?P<bound>[0-9.]+(?:e-?[0-9]+)?)\s*",
    re.ASCII,
)
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration, ZeroDivisionError, OverflowError)


class Run(NamedTuple):
    """A run: its kind, see `KINDS`, its folder, and the content of its JSON file."""

    kind: str
    folder: Path
    record: Json


class Gate(NamedTuple):
    """A bound on the figure of a kind of run, or with `upper` on the upper end of its 95 % interval."""

    text: str
    kind: str
    upper: bool
    strict: bool
    bound: float

    def check(self, findings: Sequence[Finding]) -> Json:
        """Hold it against the findings of that kind: "value", the largest, and "holds", None where they cannot say."""
        ends = [each.high if self.upper else each.value for each in findings]
        values = [end for end in ends if end is not None]
        broken = any(value >= self.bound if self.strict else value > self.bound for value in values)
        sure = len(values) == len(ends) and not any(each.doubtful for each in findings)
        holds = False if broken else True if sure else None
        return {"gate": self.text, "kind": self.kind, "value": max(values, default=None), "bound": self.bound, "holds": holds}


def parse(text: str) -> Gate:
    """Read a gate: a kind of run, alone or within `upper(...)`, then <= or <, then a bound; shares in [0, 1], for gradients dB.

    >>> parse("upper(membership) <= 0.05").bound
    0.05

    Raises:
        ConfigError: the text is no such gate.
    """
    match = _GATE.fullmatch(text)
    try:
        bound = float(match["bound"]) if match else None
    except ValueError:
        bound = None
    if match is None or match["kind"] not in KINDS or bound is None:
        raise ConfigError(
            f"Expected a gate such as 'membership <= 0.05' or 'upper(class) < 0.3' on one of {', '.join(KINDS)}, got {text[:80]!r}."
        )
    if match["kind"] != "gradients" and bound > 1:
        raise ConfigError(
            f"Expected a bound between 0 and 1 in the gate {text!r}, got {bound:g}. Shares are fractions, not per cent."
        )
    return Gate(" ".join(text.split()), match["kind"], bool(match["upper"]), match["operator"] == "<", bound)


def read(paths: Iterable[Path]) -> list[Run]:
    """The runs in these folders, each of which has one or more, in the order of `KINDS`. A run that is named twice counts once.

    Raises:
        ConfigError: a folder without a run.
        RunError: a file that is damaged or of another format.
    """
    runs: dict[Path, Run] = {}
    for folder in paths:
        here = [(name, folder / f"{kind.stem}.json") for name, kind in KINDS.items()]
        there = [(name, path) for name, path in here if path.is_file()]
        if not there:
            raise ConfigError(
                f"Expected a run of `trustsnn leakage` or `trustsnn backdoor scan` in {folder}: one of "
                f"{', '.join(path.name for _, path in here)}."
            )
        for name, path in there:
            runs.setdefault(path.resolve(), Run(name, folder, _content(path, KINDS[name].format)))
    return sorted(runs.values(), key=lambda run: list(KINDS).index(run.kind))


def _content(path: Path, form: str) -> Json:
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"Expected the record of a run in {path}, got {error}. Run the command again that wrote it.") from error
    if not isinstance(record, dict) or record.get("format") != form:
        got = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise RunError(f"Expected the format {form!r} in {path}, got {got!r}.")
    return record


def _no_number(text: str) -> Any:
    raise ValueError(f"{text}, which no figure is")


def report(runs: Sequence[Run], gates: Sequence[str] | None = None) -> Json:
    """What the runs say together, as plain values: docs/leakage-report.md has the fields.

    Args:
        gates: see `parse`; None holds those that the runs were given themselves (--fail-over, --gate).

    Raises:
        ConfigError: no run, or a gate on a kind that none of them is of.
        RunError: a record is damaged.
    """
    if not runs:
        raise ConfigError("Expected at least one run, got none.")
    findings, said = [], []
    models: dict[str, str] = {}
    for run in runs:
        with _reading(run):
            findings.append(KINDS[run.kind].judge(run.record))
            said.append(KINDS[run.kind].sentences(run.record))
            for name, digest in _models(run):
                models.setdefault(digest, name)
    asked = [parse(text) for text in gates] if gates is not None else _own(runs)
    for gate in asked:
        if gate.kind not in (run.kind for run in runs):
            raise ConfigError(
                f"The gate {gate.text!r} asks for a run of {gate.kind!r}, and none is here. Add one, or change the gate."
            )
    held = [gate.check([each for run, each in zip(runs, findings, strict=True) if run.kind == gate.kind]) for gate in asked]
    outcomes = {
        kind: _worst([each.outcome for run, each in zip(runs, findings, strict=True) if run.kind == kind])
        for kind in KINDS
        if any(run.kind == kind for run in runs)
    }
    answers = [gate["holds"] for gate in held]
    doubt = None in answers or UNCLEAR in outcomes.values()  # what cannot be trusted never exits with 0
    verdict = "fail" if False in answers else "inconclusive" if doubt else "pass" if held else "not gated"
    record = {
        "format": FORMAT,
        "models": [{"name": name, "hash": digest} for digest, name in models.items()],
        "runs": [
            {"kind": run.kind, "folder": str(run.folder), **each._asdict(), "sentences": words}
            for run, each, words in zip(runs, findings, said, strict=True)
        ],
        "outcomes": outcomes,
        "gates": held,
        "verdict": verdict,
        "exit_code": EXIT_CODES.get(verdict, 0),
    }
    return {**record, "sentences": sentences(record)}


def _own(runs: Sequence[Run]) -> list[Gate]:
    """The gates that runs were given themselves."""
    found = []
    for run in runs:
        with _reading(run):
            if run.record.get("gate"):
                found.append(f"membership <= {run.record['gate']['bound']}" if run.kind == "membership" else f"{run.kind} <= 0")
    return [parse(text) for text in dict.fromkeys(found)]


def _worst(outcomes: list[str]) -> str:
    return next(each for each in (FOUND, UNCLEAR, NOTHING) if each in outcomes)


@contextmanager
def _reading(run: Run) -> Iterator[None]:
    """A record that has not what it should becomes one clear error."""
    try:
        yield
    except _DAMAGED as error:
        raise RunError(
            f"The record of a run in {run.folder / KINDS[run.kind].stem}.json is damaged ({type(error).__name__}: {error}). Run the command "
            "again that wrote it."
        ) from error


def _models(run: Run) -> list[tuple[str, str]]:
    """Names and hashes; the attacker of a property trains models of its own."""
    given = run.record.get("models", [run.record["model"]] if "model" in run.record else [])
    return [(str(each["name"]), str(each["hash"])) for each in given]


def sentences(record: Json) -> list[str]:
    """The verdict in words: the gates, what is given away, what is not known to be, and what was not tried."""
    by = {each: [kind for kind, outcome in record["outcomes"].items() if outcome == each] for each in (FOUND, NOTHING, UNCLEAR)}
    away = [KINDS[kind].gives for kind in by[FOUND] if kind != "backdoor"]
    found = [_gates(record["gates"])]
    found += [f"The model gives away {'; '.join(away)}."] if away else []
    found += ["It carries a backdoor."] if "backdoor" in by[FOUND] else []
    found += [f"Nothing was found by {_titles(by[NOTHING])}, which does not prove that nothing is there."] if by[NOTHING] else []
    found += [f"Inconclusive: {_titles(by[UNCLEAR])}."] if by[UNCLEAR] else []
    missing = [kind for kind in KINDS if kind not in record["outcomes"]]
    found += [f"Not tried: {_titles(missing)}."] if missing else []
    models = len(record["models"])
    found += [f"The runs are of {models} models, and this is said of them together."] if models > 1 else []
    return found


def _gates(gates: Sequence[Json]) -> str:
    if not gates:
        return "No gate was set, so nothing was demanded."
    broken = [f"{gate['gate']} ({shown(gate['kind'], gate['value'])} measured)" for gate in gates if gate["holds"] is False]
    unsure = [gate["gate"] for gate in gates if gate["holds"] is None]
    found = []
    if broken:
        count = (
            "The one gate does"
            if len(gates) == 1
            else f"{len(broken)} of {len(gates)} gates {'does' if len(broken) == 1 else 'do'}"
        )
        found.append(f"{count} not hold: {joined(broken)}.")
    if unsure:
        found.append(f"Cannot be judged: {joined(unsure)}.")
    return " ".join(found) or ("The one gate holds." if len(gates) == 1 else f"All {len(gates)} gates hold.")


def _titles(kinds: Sequence[str]) -> str:
    return joined([KINDS[kind].title.lower() for kind in kinds])


def page(runs: Sequence[Run], record: Json, out: Path) -> str:
    """The report as one HTML page for the folder `out`, which carries its charts and pictures and links to the runs' own pages. Equal runs
    give equal bytes.

    Raises:
        RunError: a run or a file of pictures is damaged.
    """
    from markupsafe import Markup

    sections = []
    for number, (run, told) in enumerate(zip(runs, record["runs"], strict=True)):
        kind, own = KINDS[run.kind], run.folder / f"{KINDS[run.kind].stem}.html"
        with _reading(run):
            part, names = PARTS[run.kind](run.record, run.folder), dict.fromkeys(name for name, _ in _models(run))
        value, low, high = (shown(run.kind, told[name]) for name in ("value", "low", "high"))
        sections.append({
            **told, "id": f"run-{number}", "title": kind.title, "what": kind.figure, "figure": value if low == high else f"{value} ({low} to {high})",
            "charts": [Markup(chart) for chart in part.charts], "tables": part.tables, "pictures": part.pictures, "models": list(names),
            "link": quote(Path(os.path.relpath(own, out)).as_posix()) if own.exists() else None,
        })  # fmt: skip
    gates = [{**gate, "figure": KINDS[gate["kind"]].figure} for gate in record["gates"]]
    models = record["models"]
    heading = models[0]["name"] if len(models) == 1 else f"{len(models)} models" if models else "models of the attacker"
    return render("leakage_report.html.j2", record=record, sections=sections, gates=gates, shown=shown, heading=heading)
