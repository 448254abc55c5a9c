"""Two runs side by side: both figures, and the paired difference on the samples that both saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustsnn.errors import ConfigError
from trustsnn.reports.card import plain, table
from trustsnn.reports.evidence import robust
from trustsnn.reports.gates import TOLERANCE
from trustsnn.reports.record import Json, Record, is_clean, read
from trustsnn.reports.samples import outcomes
from trustsnn.reports.summary import planned, resting_on, summarise_record
from trustsnn.reports.wording import ball_text, percent

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "trustsnn-compare/1"


def compare(run_a: Path, run_b: Path) -> Json:
    """Compare the run folder `run_b` with `run_a` at every (norm, eps) that both planned, the clean accuracy first.

    Each row has `a` and `b` (figures on the common samples), `difference` (b minus a, with `low` and `high` of its 95 %
    interval), `only_a` and `only_b` (samples that one run keeps correct and the other does not), `p` (McNemar's exact test,
    two-sided, not corrected for the number of rows), `same_threat` and `status`. `differences` says in words in what else
    the runs differ.

    Raises:
        ConfigError: the runs have no samples in common, or the common ones have other labels (they are other data).
        RunError: a folder is no run folder, or is damaged.
    """
    records = read(Path(run_a)), read(Path(run_b))
    tables = outcomes(records[0]), outcomes(records[1])
    summaries = [summarise_record(record) for record in records]
    common, one_data = common_samples(records, tables)
    rows = []
    for norm, eps in [(None, 0.0), *_shared(planned(records[0]), planned(records[1]))]:
        keys = [resting_on(record, norm, eps) for record in records]
        here = [_measured(record, own, norm, eps, found) for record, own, found in zip(records, keys, tables, strict=True)]
        if not all(here):
            continue
        kept = [robust(record, found, norm, eps).reindex(common) for record, found in zip(records, tables, strict=True)]
        rows.append(
            {
                "norm": norm,
                "eps": eps,
                **paired(kept[0], kept[1]),
                "same_threat": _threats(records[0], keys[0]) == _threats(records[1], keys[1]),
                "status": "ok" if all(_sound(one, norm, eps) for one in summaries) else "inconclusive",
            }
        )
    return {
        "format": FORMAT,
        "samples": len(common),
        "models": [{name: record.head["model"].get(name) for name in ("name", "hash")} for record in records],
        "verdicts": [one["verdict"] for one in summaries],
        "rows": rows,
        "differences": _differences(records, tables, len(common), one_data, rows),
    }


def paired(a: pd.Series[bool], b: pd.Series[bool]) -> Json:
    """Two outcomes of the same samples: figures, difference with interval, McNemar's exact p.

    The interval is the adjusted Wald interval for paired proportions of Bonett and Price 2012; it stays sensible when few
    samples differ. Without a sample that differs, p is 1.
    """
    from scipy.special import ndtri

    from trustsnn.statistics import proportion, sign_test

    count = len(a)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    first, second = (only_b + 1) / (count + 2), (only_a + 1) / (count + 2)
    half = float(ndtri(0.975)) * ((first + second - (first - second) ** 2) / (count + 2)) ** 0.5
    return {
        "a": dict(proportion(int(a.sum()), count)),
        "b": dict(proportion(int(b.sum()), count)),
        "difference": {
            "value": (only_b - only_a) / count,
            "low": max(-1.0, first - second - half),
            "high": min(1.0, first - second + half),
        },
        "only_a": only_a,
        "only_b": only_b,
        "p": sign_test(only_b, only_a),
    }


def compare_text(run_a: Path, run_b: Path) -> str:
    """`compare` as Markdown. Raises what `compare` raises."""
    result = compare(run_a, run_b)
    names = [plain(model["name"]) for model in result["models"]]
    lines = [
        f"## {names[0]} (A) and {names[1]} (B)",
        "",
        f"On {result['samples']} common samples. Verdicts: A {result['verdicts'][0]}, B {result['verdicts'][1]}.",
        "",
        *table(
            ("Within", "A", "B", "B minus A", "95 % interval", "Only A", "Only B", "McNemar p", "Status"),
            list(map(_row, result["rows"])),
        ),
        "",
        "Only A, Only B: samples that one run keeps correct and the other does not. p is exact, two-sided and not corrected for "
        "the number of rows.",
    ]
    if result["differences"]:
        lines += ["", "### The runs also differ in this", "", *(f"- {plain(text)}" for text in result["differences"])]
    return "\n".join([*lines, ""])


def _row(row: Json) -> list[Any]:
    name = "No attack" if row["norm"] is None else ball_text(row["norm"], row["eps"])
    change = row["difference"]
    figures = [percent(row[side]["value"], row[side]["count"]) for side in ("a", "b")]
    p = "< 0.0001" if row["p"] < 0.0001 else f"{row['p']:.4f}"
    status = row["status"] if row["same_threat"] else f"{row['status']}, other attacks"
    points = f"{_points(change['value'])} points"
    return [
        name,
        *figures,
        points,
        f"{_points(change['low'])} to {_points(change['high'])}",
        row["only_a"],
        row["only_b"],
        p,
        status,
    ]


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def common_samples(records: tuple[Record, Record], tables: tuple[dict[str, Any], dict[str, Any]]) -> tuple[list[str], bool]:
    """The samples of both runs in the order of the first, and whether the runs are on one data set."""
    for record, found in zip(records, tables, strict=True):
        if not found:
            raise ConfigError(f"Expected finished evaluations in {record.folder}, got none. Finish that audit, then compare.")
    first, second = (next(iter(found.values())).set_index("sample")["label"] for found in tables)
    common = [name for name in first.index if name in second.index]
    names = [f"{record.head['data'].get('name')} ({record.folder})" for record in records]
    if not common:
        raise ConfigError(
            f"Expected two runs with samples in common, got {names[0]} and {names[1]}, which share none. "
            "Audit both models on the same data, then compare."
        )
    one_data = bool(records[0].head["data"].get("sha256") == records[1].head["data"].get("sha256"))
    if not bool((first.loc[common] == second.loc[common]).all()):
        raise ConfigError(
            f"Expected two runs on the same data, got {names[0]} and {names[1]}: {len(common)} samples have the "
            "same name, but not the same labels. Audit both models on the same data, then compare."
        )
    return common, one_data


def _shared(a: list[tuple[str, float]], b: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(norm, eps) for norm, eps in a if any(norm == other and abs(eps - size) <= TOLERANCE for other, size in b)]


def _measured(record: Record, keys: list[str], norm: str | None, eps: float, found: dict[str, Any]) -> bool:
    clean = any(key in found for key in keys if is_clean(record.plan[key]))
    threats = {key: record.plan[key]["threat"] for key in keys}
    here = [key for key, threat in threats.items() if threat["norm"] == norm and abs(threat["eps"] - eps) <= TOLERANCE]
    return clean and (norm is None or any(key in found for key in here))


def _sound(summary: Json, norm: str | None, eps: float) -> bool:
    figures = [summary["clean_accuracy"]] if norm is None else summary["robust_accuracy"]
    here = [one for one in figures if norm is None or (one["norm"] == norm and abs(one["eps"] - eps) <= TOLERANCE)]
    return all(one["status"] == "ok" for one in here)


def _threats(record: Record, keys: list[str]) -> set[str]:
    from trustsnn.canonical import canonical_json

    asked = ("threat", "estimator", "twin", "seed")
    return {canonical_json({name: record.plan[key].get(name) for name in asked}) for key in keys}


def _differences(
    records: tuple[Record, Record], tables: tuple[dict[str, Any], dict[str, Any]], common: int, one_data: bool, rows: list[Json]
) -> list[str]:
    a, b = (record.head for record in records)
    texts = []
    if a["model"].get("hash") != b["model"].get("hash"):
        texts.append(f"The models differ: {a['model'].get('name')} and {b['model'].get('name')}.")
    if not one_data:
        texts.append("The data sets have different hashes; the samples were matched by their names and labels.")
    counts = [len(next(iter(found.values()))) for found in tables]
    if counts != [common, common]:
        texts.append(f"A saw {counts[0]} samples and B {counts[1]}; only the {common} common ones are compared.")
    for name, own, other in (("A", records[0], records[1]), ("B", records[1], records[0])):
        shared = _shared(planned(own), planned(other))
        alone = [ball_text(norm, eps) for norm, eps in planned(own) if (norm, eps) not in shared]
        if alone:
            texts.append(f"Only {name} was audited within {', '.join(alone)}.")
    changed = [ball_text(row["norm"], row["eps"]) for row in rows if row["norm"] and not row["same_threat"]]
    if changed:
        texts.append(
            f"The attacks, their settings or their seeds differ within {', '.join(changed)}, so the difference is not "
            "the model's alone."
        )
    versions = [head["environment"].get("packages", {}) for head in (a, b)]
    packages = sorted(name for name in {*versions[0], *versions[1]} if versions[0].get(name) != versions[1].get(name))
    if packages:
        texts.append(f"Versions differ: {', '.join(packages)}.")
    return texts
