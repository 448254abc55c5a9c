"""Evaluations without an adversary: natural corruptions, and whether the model's own signals tell samples of another kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trustsnn.attacks.corruptions.evaluate import corrupted
from trustsnn.attacks.ood import Signals, evaluate_ood, shuffled, signals, uniform_noise
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.spec import ModelSpec
from trustsnn.rng import Draws
from trustsnn.runners.config import AuditConfig
from trustsnn.runners.evaluate import Evaluated
from trustsnn.runners.measure import Job, measure, record
from trustsnn.runners.plan import Corruption, Outside, PlannedCell
from trustsnn.runners.resolve import first_batch, resolve_data

MADE = ("noise", "shuffled")
"""Sources whose samples are made of the audited ones."""


def check_corruptions(config: AuditConfig, spec: ModelSpec, data: Dataset) -> None:
    """ConfigError or DataError for a corruption that the samples cannot have, found on one of them."""
    for name in config.resolved_corruptions(spec.domain):
        corrupted(name, first_batch(data, 1), 1, Draws(0, "check", data.ids[:1]), domain=spec.domain, max_count=spec.max_count)


def corruption(job: Job, planned: PlannedCell, shift: Corruption) -> Evaluated:
    """The evaluation under one corruption."""
    measured = measure(job, lambda x, y, ids, rows: corrupted_batch(job, shift, x, ids))
    return Evaluated(measured.record(planned, [], {}), measured.table(planned.key, job.data.ids), None)


def corrupted_batch(job: Job, shift: Corruption, x: Tensor, ids: tuple[str, ...]) -> Tensor:
    """A batch under the corruption."""
    spec: ModelSpec = job.model.spec  # type: ignore[assignment]
    draws = Draws(job.config.seed, "corruption", ids)
    return corrupted(shift.name, x, shift.severity, draws, domain=spec.domain, max_count=spec.max_count)


def resolve_outside(config: AuditConfig, spec: ModelSpec, data: Dataset, **where: Path | bool | str | None) -> list[Outside]:
    """The sources of samples outside the distribution, as many of each data set as are judged inside."""
    if config.ood and len(data) < 4:
        raise ConfigError(f"Out-of-distribution detection needs at least 4 samples, got {len(data)}.")
    found = []
    for source in config.ood:
        other = None if source in MADE else resolve_data(source, spec, **where)  # type: ignore[arg-type]
        if other is not None:
            if other.domain != spec.domain or other.sample_shape != spec.input_shape or other.sha256 == data.sha256:
                raise ConfigError(
                    f"Expected {', '.join(MADE)} or another data set of samples {list(spec.input_shape)} ({spec.domain}) for ood, "
                    f"got {source!r} with {list(other.sample_shape)} ({other.domain})."
                )
            other = other.take(len(data) - len(data) // 2, config.seed)
        found.append(Outside(source, other))
    return found


def halves(data: Dataset) -> tuple[Dataset, Dataset]:
    """The samples in two halves by a hash of their ids: a reference, and those that are judged, one more if they are odd."""
    order = sorted(range(len(data)), key=lambda i: hashlib.sha256(f"ood\x1f{data.ids[i]}".encode()).digest())
    parts = order[: len(data) // 2], order[len(data) // 2 :]
    reference, inside = (data.select(np.array(sorted(part), dtype=np.int64)) for part in parts)
    return reference, inside


def outside(job: Job, planned: PlannedCell, shift: Outside) -> Evaluated:
    """How well each score tells one half of the audited samples from the samples of the source. The other half gives the
    typical spike rates, and is what noise and shuffled samples are made of."""
    reference, inside = halves(job.data)
    made = {"noise": _noise(job.data), "shuffled": shuffled}.get(shift.source)
    source = shift.data if shift.data is not None else reference
    seen = _signals(job, inside), _signals(job, source, made), _signals(job, reference)
    detection = {name: asdict(each) for name, each in evaluate_ood(*seen).items()}
    return Evaluated({**record(planned, "ok", [], None, [], {}), "detection": detection}, None, None)


def _noise(data: Dataset) -> Callable[[Tensor, Draws], Tensor]:
    """Uniform noise of the domain: values in [0, 1), or whole numbers of events in 0..max_count."""
    if data.domain == "image":
        return uniform_noise
    most = data.max_count or 1
    return lambda x, draws: (uniform_noise(x, draws) * (most + 1)).floor()


def _signals(job: Job, data: Dataset, made: Callable[[Tensor, Draws], Tensor] | None = None) -> Signals:
    seen = []
    for start in range(0, len(data), job.config.batch_size):
        rows = range(start, min(start + job.config.batch_size, len(data)))
        x, ids = torch.from_numpy(data.batch(rows)[0]), data.ids[rows.start : rows.stop]
        x = x if made is None else made(x, Draws(job.config.seed, "ood", ids))
        seen.append(signals(job.model, x, ids, job.config.seed))
    rates = {name: np.concatenate([each.rates[name] for each in seen]) for name in seen[0].rates}
    return Signals(np.concatenate([each.logits for each in seen]), rates)
