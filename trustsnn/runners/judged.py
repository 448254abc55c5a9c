"""What a command leaves that counts and holds one gate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Judged:
    """The content of the JSON file, the page, and 0, 1 where the gate failed, or 3 where nothing can be concluded."""

    record: dict[str, Any]
    report: Path
    exit_code: int
