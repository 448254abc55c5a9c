"""Per-sample outcomes of a run: every cell's table, in the order of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trustsnn.errors import RunError
from trustsnn.reports.record import Record, read

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("cell", "sample", "label", "prediction", "correct", "margin", "linf", "l2")
OPTIONAL = ("changes", "broken_by")  # empty where a run has none of it


def load_samples(run: Path) -> pd.DataFrame:
    """All outcomes of the run folder `run`, concatenated from cells/<key>.parquet in the order of the plan.

    Columns: `cell`, `sample`, `label`, `prediction`, `correct`, `margin`, `linf`, `l2`, `changes`, `broken_by` (docs/run-format.md).
    Cells without outcomes (missing, or in error) are left out.

    Raises:
        RunError: the folder is no run folder, or a table is damaged or lacks a column.
    """
    import pandas as pd

    record = read(run)
    tables = list(outcomes(record).values())
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*COLUMNS, *OPTIONAL])


def outcomes(record: Record) -> dict[str, pd.DataFrame]:
    """The table of each finished cell that has one, keyed by cell, in the order of the plan.

    Raises:
        RunError: a table is damaged, disagrees with its line in cells.jsonl, or covers other samples than the first one.
    """
    tables: dict[str, pd.DataFrame] = {}
    merged: pd.DataFrame | None = None
    for key, line in record.lines.items():
        if line["status"] == "error" or line["accuracy"] is None:
            continue
        path = record.folder / "cells" / f"{key}.parquet"
        if not path.exists():
            path = record.folder / "samples.parquet"
            if not path.exists():
                continue
            merged = _table(path) if merged is None else merged
            table = merged[merged["cell"] == key].reset_index(drop=True)
            if table.empty:
                continue
        else:
            table = _table(path)
        _agrees(path, table, line["accuracy"])
        if tables:
            _same_samples(path, table, next(iter(tables.values())))
        tables[key] = table
    return tables


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd
    from pandas.api.types import is_bool_dtype
    from pyarrow import ArrowException

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, ArrowException) as error:
        raise RunError(
            f"Expected a table of outcomes in {path}, got a file that cannot be read. Delete it together with its line in "
            "cells.jsonl and run the same audit command again."
        ) from error
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise RunError(
            f"Expected the columns {', '.join(COLUMNS)} in {path}; {', '.join(lacking)} not found. Run the audit again."
        )
    if bool(table[["sample", "label", "correct"]].isna().any(axis=None)):
        raise RunError(f"Expected a sample, a label and an outcome in every row of {path}, got empty ones. Run the audit again.")
    if not is_bool_dtype(table["correct"]):
        raise RunError(f"Expected true or false under 'correct' in {path}, got {table['correct'].dtype}. Run the audit again.")
    table = table.reindex(columns=[*COLUMNS, *OPTIONAL])
    return table.astype({"changes": "Int64", "broken_by": object})


def _agrees(path: Path, table: pd.DataFrame, accuracy: dict[str, int]) -> None:
    found = (int(table["correct"].sum()), len(table))
    if found != (accuracy["successes"], accuracy["count"]):
        raise RunError(
            f"Expected {accuracy['successes']} correct of {accuracy['count']} in {path}, as cells.jsonl says, got {found[0]} of "
            f"{found[1]}: the two files are not from the same run. Run the audit again into an empty folder."
        )


def _same_samples(path: Path, table: pd.DataFrame, first: pd.DataFrame) -> None:
    names, expected = table["sample"], first["sample"]
    if len(names) != len(expected) or names.duplicated().any() or set(names) != set(expected):
        raise RunError(
            f"Expected the same {len(expected)} samples in every cell, got others in {path}. "
            "Run the audit again into an empty folder."
        )
