"""Reports: a run folder in, its views out (HTML, JSON, CSV, JUnit, Markdown). Never imports torch.

Beside `write`: `trustsnn.reports.gates` (bounds on figures) and `trustsnn.reports.compare` (two runs side by side).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trustsnn.errors import ConfigError
from trustsnn.reports.samples import load_samples
from trustsnn.reports.summary import summarise

__all__ = ["FORMATS", "load_samples", "summarise", "write"]

FORMATS = {"html": "report.html", "json": "report.json", "csv": "samples.csv", "junit": "junit.xml", "md": "card.md"}


def write(run: Path, formats: Sequence[str] = tuple(FORMATS), gates: Sequence[str] | None = None) -> dict[str, Path]:
    """Write views of the run folder `run` into it and return their paths by format.

    `formats` are among `html`, `json`, `csv`, `junit`, `md`. Equal run folders give equal bytes. Each file is replaced
    whole or not at all. `gates`, where given, are held instead of the run's own; run.json stays as it is.

    Raises:
        ConfigError: an unknown format, or a gate on what was not planned.
        RunError: the folder is no run folder, is damaged, or cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ConfigError(f"Expected formats among {', '.join(FORMATS)}, got {', '.join(map(repr, unknown))}.")

    from trustsnn.files import write_text
    from trustsnn.reports import views
    from trustsnn.reports.record import read, with_gates
    from trustsnn.reports.summary import summarise_record

    record = with_gates(read(Path(run)), gates)
    summary = summarise_record(record)
    texts = {name: views.RENDER[name](record, summary) for name in dict.fromkeys(formats)}
    paths = {name: record.folder / FORMATS[name] for name in texts}
    for name, path in paths.items():
        # A lone surrogate, which JSON may hold, cannot be written as UTF-8.
        write_text(path, texts[name].encode("utf-8", "replace").decode("utf-8"))
    return paths
