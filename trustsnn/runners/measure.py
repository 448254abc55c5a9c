"""The audited samples through the model, batch by batch, as they are or changed: what every kind of evaluation does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.losses import margin
from trustsnn.attacks.norms import size
from trustsnn.blocks import frozen, is_stochastic, observe
from trustsnn.data import Dataset
from trustsnn.rng import Draws
from trustsnn.runners.config import AuditConfig
from trustsnn.runners.findings import doubtful
from trustsnn.runners.plan import PlannedCell
from trustsnn.runners.progress import Reporter
from trustsnn.runners.records import RunFolder, samples_table
from trustsnn.statistics import proportion

Rows = NDArray[np.int64]
Change = Callable[[Tensor, Tensor, tuple[str, ...], Rows], Tensor]
"""What becomes of a batch: samples [B, ...], labels [B], ids and rows in the data set give the samples to classify."""


@dataclass(frozen=True)
class Job:
    """What every evaluation of an audit works on."""

    run: RunFolder
    plan: Sequence[PlannedCell]
    model: nn.Module
    data: Dataset
    config: AuditConfig
    reporter: Reporter
    searched: dict[SNNAutoAttack, list[dict[str, Any]]] = field(
        default_factory=dict
    )  # what a search found, see `findings.of_a_search`

    @property
    def batch(self) -> int:
        """Samples that are attacked together: half of those that the memory affords, since an attack through ASSG keeps as much
        for each of them as the activations of one pass take."""
        return min(self.config.batch_size, max(1, getattr(self.model, "affordable", sys.maxsize) // 2))

    @property
    def events(self) -> bool:
        """Whether the samples are event frames."""
        return self.data.domain != "image"

    def correct(self, key: str) -> NDArray[np.bool_]:
        """Which samples the model classified correctly in a finished cell [B]."""
        found: NDArray[np.bool_] = self.run.samples(key)["correct"].to_numpy(zero_copy_only=False)
        return found


@dataclass
class Measured:
    """What the model made of the samples: one column a figure, logits [B, K], spikes and places of each layer, and the samples
    that are `shown`, before and after their change, by row."""

    columns: dict[str, NDArray[Any]]
    logits: NDArray[np.float32]
    spikes: dict[str, tuple[int, int]] = field(default_factory=dict)
    shown: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which samples are classified correctly [B]."""
        return self.columns["correct"]

    def record(self, planned: PlannedCell, reasons: list[dict[str, Any]], diagnostics: dict[str, Any]) -> dict[str, Any]:
        """The cell's line of cells.jsonl."""
        rates = [{"layer": name, "rate": fired / places} for name, (fired, places) in self.spikes.items()]
        accuracy = dict(proportion(int(self.correct.sum()), len(self.correct)))
        return record(planned, status_of(reasons), reasons, accuracy, rates, diagnostics)

    def table(self, key: str, ids: Sequence[str], broken_by: Sequence[str | None] = ()) -> pa.Table:
        """The cell's per-sample outcomes."""
        return samples_table(key, {"sample": list(ids), **self.columns, "broken_by": broken_by or [None] * len(ids)})


def measure(job: Job, change: Change, shown: Sequence[int] = ()) -> Measured:
    """Classify every sample after `change`. The figures do not depend on the batch size."""
    parts: dict[str, list[Any]] = {}
    logits, spikes, kept = [], dict[str, tuple[int, int]](), dict[int, tuple[Tensor, Tensor]]()
    for start in range(0, len(job.data), job.batch):
        rows = np.arange(start, min(start + job.batch, len(job.data)))
        x, y = (torch.from_numpy(values) for values in job.data.batch(rows))
        ids = tuple(job.data.ids[i] for i in rows)
        changed = change(x, y, ids, rows)
        with frozen(job.model):
            draws = Draws(job.config.seed, "predict", ids) if is_stochastic(job.model) else None
            seen = observe(job.model, changed, draws)
        delta, prediction = changed - x, seen.logits.argmax(1)
        for name, values in (
            ("label", y), ("prediction", prediction), ("correct", prediction == y), ("margin", -margin(seen.logits, y)),
            ("linf", size(delta, "linf")), ("l2", size(delta, "l2")), ("changes", size(delta, "l1").round().long()),
        ):  # fmt: skip
            if name != "changes" or job.events:
                parts.setdefault(name, []).append(values.numpy())
        logits.append(seen.logits.numpy())
        for layer, (fired, places) in seen.spikes.items():
            before = spikes.get(layer, (0, 0))
            spikes[layer] = (before[0] + fired, before[1] + places)
        for row in np.intersect1d(rows, shown).tolist():
            kept[row] = (x[row - start], changed[row - start])
        job.reporter.advance(len(rows))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    return Measured(columns, np.concatenate(logits), spikes, kept)


def status_of(reasons: Sequence[dict[str, Any]]) -> str:
    """The status of a cell that was evaluated, from its findings."""
    return "inconclusive" if any(map(doubtful, reasons)) else "ok"


def record(
    planned: PlannedCell,
    status: str,
    reasons: list[dict[str, Any]],
    accuracy: dict[str, Any] | None,
    rates: list[dict[str, Any]],
    diagnostics: dict[str, Any],
) -> dict[str, Any]:
    """A line of cells.jsonl."""
    return {
        "key": planned.key,
        "cell": planned.cell,
        "status": status,
        "reasons": reasons,
        "accuracy": accuracy,
        "spike_rates": rates,
        "diagnostics": diagnostics,
    }
