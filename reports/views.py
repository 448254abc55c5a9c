"""The views of a run by name: each a function from its record and summary to text."""

from __future__ import annotations

import json
from collections.abc import Callable

from trustsnn.reports.card import card
from trustsnn.reports.html import page
from trustsnn.reports.junit import junit
from trustsnn.reports.record import Json, Record
from trustsnn.reports.samples import COLUMNS, OPTIONAL, outcomes


def report_json(record: Record, summary: Json) -> str:
    """The summary as JSON: keys sorted, one space of indent, and a ValueError rather than a NaN."""
    return json.dumps(summary, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def samples_csv(record: Record, summary: Json) -> str:
    """Per-sample outcomes as CSV, in the order of the plan."""
    import pandas as pd

    tables = list(outcomes(record).values())
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*COLUMNS, *OPTIONAL])
    return str(table.to_csv(index=False, lineterminator="\n"))


RENDER: dict[str, Callable[[Record, Json], str]] = {
    "html": page,
    "json": report_json,
    "csv": samples_csv,
    "junit": junit,
    "md": card,
}
