"""What an audit returns: its figures, read from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class RobustAccuracy(NamedTuple):
    """Robust accuracy at one (norm, eps): the value with its 95 % interval over `samples` samples, None where it could not
    be measured, and "ok" or "inconclusive"."""

    value: float | None
    low: float | None
    high: float | None
    samples: int
    status: str


@dataclass(frozen=True)
class Run:
    """A finished audit. Everything is read from its folder."""

    folder: Path
    summary: dict[str, Any]

    @property
    def verdict(self) -> str:
        """ "pass", "fail" or "inconclusive"."""
        return str(self.summary["verdict"])

    @property
    def exit_code(self) -> int:
        """What the command line returns: 0 pass, 1 a gate failed, 3 inconclusive."""
        return int(self.summary["exit_code"])

    @property
    def clean_accuracy(self) -> float | None:
        """Correctly classified without an attack, or None where it could not be measured."""
        value = self.summary["clean_accuracy"]["value"]
        return None if value is None else float(value)

    @property
    def robust_accuracy(self) -> dict[tuple[str, float], RobustAccuracy]:
        """By (norm, eps): the per-sample worst case over all cells of that threat."""
        return {
            (entry["norm"], entry["eps"]): RobustAccuracy(
                entry["value"], entry["low"], entry["high"], entry["count"], entry["status"]
            )
            for entry in self.summary["robust_accuracy"]
        }

    @property
    def natural_shift(self) -> dict[str, Any] | None:
        """Accuracy under each corruption, and the mean corruption error; None where no corruption was asked for."""
        found: dict[str, Any] | None = self.summary["natural_shift"]
        return found

    @property
    def ood(self) -> list[dict[str, Any]]:
        """For each source of samples outside the distribution, how well each score tells them apart."""
        return list(self.summary["ood"])

    @property
    def hardware(self) -> list[dict[str, Any]]:
        """For each hardware twin and each kind of samples, the accuracy of the network, the median chip and the worst one."""
        return list(self.summary["hardware"])

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What makes the evaluation doubtful, each with type, message, evidence, threshold and source."""
        return list(self.summary["findings"])

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"
