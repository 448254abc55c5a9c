"""The run folder as it is written: plan first, then one durable record a cell. docs/run-format.md has the contract."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trustsnn.canonical import canonical_json, sha256_of
from trustsnn.errors import RunError
from trustsnn.files import alone, append_line, write_atomically, write_text

FORMAT = "trustsnn-run/1"
_COLUMNS = pa.schema(
    [
        ("cell", pa.string()),
        ("sample", pa.string()),
        ("label", pa.int64()),
        ("prediction", pa.int64()),
        ("correct", pa.bool_()),
        ("margin", pa.float32()),
        ("linf", pa.float32()),
        ("l2", pa.float32()),
        ("changes", pa.int64()),
        ("broken_by", pa.string()),
    ]
)


def cell_key(cell: Mapping[str, Any]) -> str:
    """SHA-256 of the cell's canonical JSON."""
    return sha256_of(cell)


def _decisive(part: Any) -> Any:
    """A part of run.json without what does not decide a figure."""
    return {key: value for key, value in part.items() if key != "command"} if isinstance(part, dict) else part


def run_head(
    config: dict[str, Any],
    model: dict[str, Any],
    data: dict[str, Any],
    environment: dict[str, Any],
    gates: Sequence[str],
    cells: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The content of run.json."""
    plan = [{"key": cell_key(cell), "cell": cell} for cell in cells]
    subject = {"config": _decisive(config), "model": model, "data": data, "cells": plan, "packages": environment["packages"]}
    return {
        "format": FORMAT,
        "identity": sha256_of({**subject, "threads": environment["threads"], "kernels": environment["kernels"]}),
        "config": config,
        "model": model,
        "data": data,
        "environment": environment,
        "gates": list(gates),
        "cells": plan,
    }


class RunFolder:
    """A run folder that is being written. `open` makes a new one or takes up the same run where it stopped."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path = path
        self.head = head
        self.records: dict[str, dict[str, Any]] = {}

    @classmethod
    @contextmanager
    def open(cls, path: Path, head: dict[str, Any]) -> Iterator[RunFolder]:
        """The folder `path` for the run `head`, locked against a second writer while it is open.

        Raises:
            RunError: the folder holds another run or other files, is in use, or cannot be written.
        """
        run = cls(path, head)
        with alone(path, f"Another process is writing the run in {path}. Wait for it, or choose another --out."):
            run._take_up()
            yield run

    def _take_up(self) -> None:
        path = self.path / "run.json"
        if not path.exists():
            strangers = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
            if strangers:
                raise RunError(
                    f"Expected an empty folder or the run folder of this audit at {self.path}, found {', '.join(sorted(strangers)[:3])}. "
                    "Choose another --out."
                )
            write_text(path, json.dumps(self.head, indent=1, sort_keys=True, allow_nan=False) + "\n")
            return
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
            identity = theirs["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read as a run of trustsnn: {error}. Choose another --out.") from error
        if identity != self.head["identity"]:
            mine = json.loads(json.dumps(self.head))
            parts = [part for part in ("config", "model", "data") if _decisive(theirs.get(part)) != _decisive(mine[part])]
            if not parts:
                parts = ["package versions, threads, kernels or attacks"]
            raise RunError(
                f"{self.path} holds another run ({', '.join(parts)} differ). Its results are left as they are. Choose "
                "another --out, or run the command that started it."
            )
        self._read_records()
        if theirs.get("gates") != self.head["gates"]:
            write_text(path, json.dumps(self.head, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def _read_records(self) -> None:
        path = self.path / "cells.jsonl"
        if not path.exists():
            return
        content = path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:  # a crash cut the last line short: drop it, its cell runs again
            write_atomically(path, lambda temporary: temporary.write_bytes(whole + b"\n" if whole else b""))
        planned = {entry["key"] for entry in self.head["cells"]}
        for line in whole.splitlines():
            try:
                record = json.loads(line)
                key = record["key"]
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path} has a line that is no record: {error}. Choose another --out.") from error
            if key in planned and record["status"] != "error" and self._is_whole(record):
                self.records[key] = record

    def _is_whole(self, record: dict[str, Any]) -> bool:
        """Whether the outcomes of a recorded cell are there, if it has an accuracy; without them it is evaluated again."""
        try:
            if record["accuracy"] is not None:
                self.samples(record["key"])
        except (OSError, pa.ArrowException):
            return False
        return True

    def finish(
        self, record: dict[str, Any], samples: pa.Table | None, pictures: Mapping[str, NDArray[Any]] | None, seconds: float
    ) -> None:
        """Make a finished cell durable: its samples and pictures first, its line last."""
        key = record["key"]
        folder = self.path / "cells"
        if samples is not None:
            write_atomically(folder / f"{key}.parquet", lambda path: pq.write_table(samples, path, compression="zstd"))
        if pictures is not None:
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **dict(pictures))
            write_atomically(folder / f"{key}.npz", lambda path: path.write_bytes(buffer.getvalue()))
        append_line(
            self.path / "timings.jsonl", canonical_json({"key": key, "seconds": round(seconds, 3), "at": round(time.time())})
        )
        append_line(self.path / "cells.jsonl", canonical_json(record))
        self.records[key] = record

    def amend(self, record: dict[str, Any]) -> None:
        """Put a record in the place of the one that its cell has; of two lines the later one counts."""
        if record != self.records[record["key"]]:
            append_line(self.path / "cells.jsonl", canonical_json(record))
            self.records[record["key"]] = record

    def fail(self, record: dict[str, Any]) -> None:
        """Record a cell that could not be evaluated; the same command tries it again."""
        append_line(self.path / "cells.jsonl", canonical_json(record))

    def keep(self, key: str, samples: NDArray[np.float32]) -> None:
        """Keep what an attack made of the samples, for other cells of the run."""

        def save(path: Path) -> None:
            with path.open("wb") as stream:
                np.save(stream, samples, allow_pickle=False)

        write_atomically(self._adversarial(key), save)

    def kept(self, key: str) -> NDArray[np.float32] | None:
        """What `keep` kept; None where it did not, or where the file is damaged."""
        try:
            return np.load(self._adversarial(key), allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError):
            return None

    def _adversarial(self, key: str) -> Path:
        return self.path / "cells" / f"{key}.npy"

    def samples(self, key: str) -> pa.Table:
        """The per-sample outcomes of a finished cell."""
        return pq.read_table(self.path / "cells" / f"{key}.parquet")

    def merge(self) -> None:
        """Write samples.parquet: every finished cell's outcomes, in the order of the plan."""
        done = [self.records[entry["key"]] for entry in self.head["cells"] if entry["key"] in self.records]
        tables = [self.samples(record["key"]) for record in done if record["accuracy"] is not None]
        merged = pa.concat_tables(tables) if tables else _COLUMNS.empty_table()
        write_atomically(self.path / "samples.parquet", lambda path: pq.write_table(merged, path, compression="zstd"))


def samples_table(key: str, columns: Mapping[str, Any]) -> pa.Table:
    """The per-sample outcomes of one cell with the columns of docs/run-format.md; what is not given is null."""
    count = len(columns["sample"])
    empty = {name: [None] * count for name in _COLUMNS.names}
    return pa.table({**empty, "cell": [key] * count, **columns}, schema=_COLUMNS)
