"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """Tells of an audit's cells on standard error; silent if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._live = not quiet and sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
            transient=True,
        )
        self._cells = self._samples = self._progress.add_task("", visible=False)
        self._index = self._total = self._count = 0

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, cells: int, samples: int, done: int) -> None:
        """The plan has `cells` cells of `samples` samples, of which `done` cells are there already."""
        self._total, self._index, self._count = cells, done, samples
        self._cells = self._progress.add_task("cells", total=cells, completed=done)
        self._samples = self._progress.add_task("", total=samples)
        if done:
            self.line(f"resuming: {done} of {cells} cells are done")

    def cell(self, label: str) -> None:
        """A cell begins."""
        self._progress.reset(self._samples, description=label, total=self._count)

    def advance(self, samples: int) -> None:
        """Samples of the cell are done."""
        self._progress.advance(self._samples, samples)

    def finished(self, line: str) -> None:
        """A cell is done."""
        self._index += 1
        self._progress.advance(self._cells)
        self.line(f"[{self._index}/{self._total}] {line}")

    def bar(self, label: str, done: int, total: int) -> None:
        """One bar for work of `total` steps."""
        if not self._progress.tasks[0].visible:
            self._progress.update(self._samples, visible=True)
        self._progress.update(self._samples, description=label, completed=done, total=total)

    def line(self, text: str) -> None:
        """One plain line, above the bar where there is one."""
        self._console.print(text, markup=False, soft_wrap=True)


class TrainingReporter:
    """Tells of a training run on standard error: a bar over the steps of an epoch, a line after it."""

    def __init__(self, quiet: bool = False) -> None:
        self._reporter = Reporter(quiet)
        self._epoch = -1

    def __enter__(self) -> TrainingReporter:
        self._reporter.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reporter.__exit__(kind, error, trace)

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """One step of epoch `epoch` (from 0) is done."""
        self._reporter.bar(f"epoch {epoch + 1}/{epochs}  loss {loss:.4f}", step, steps)

    def epoch(self, row: dict[str, float], epochs: int) -> None:
        """An epoch is done."""
        figures = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in row.items() if name != "epoch")
        self._reporter.line(f"[{row['epoch']}/{epochs}] {figures}")
