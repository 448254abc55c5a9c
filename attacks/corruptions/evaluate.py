"""Accuracy under natural corruptions, and the mean corruption error (Hendrycks and Dietterich 2019, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.attacks.corruptions.base import check_severity
from trustsnn.attacks.corruptions.catalogue import CORRUPTIONS, FAMILIES, SEVERITIES, defaults
from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.errors import ConfigError, DataError
from trustsnn.rng import Draws
from trustsnn.statistics import Figure, proportion, wilson_of_mean

_CHUNK = 256


@dataclass(frozen=True)
class CorruptionRow:
    """One corruption at one severity: which samples [B] stay correctly classified."""

    corruption: str
    severity: int
    correct: NDArray[np.bool_]

    @property
    def accuracy(self) -> Figure:
        """Correctly classified samples, with their count and 95 % Wilson interval."""
        return proportion(int(self.correct.sum()), len(self.correct))

    @property
    def error(self) -> Figure:
        """Misclassified samples, with their count and 95 % Wilson interval."""
        return proportion(int((~self.correct).sum()), len(self.correct))


def corrupted(
    name: str, x: Tensor, severity: int, draws: Draws, *, domain: str = "image", max_count: int | None = None
) -> Tensor:
    """`x` under the corruption called `name`. `max_count` is that of a model of event counts."""
    check_severity(severity)
    if (name in FAMILIES["events"]) != (domain != "image") and name in CORRUPTIONS.bundled:
        raise ConfigError(f"The corruption {name!r} is not for the domain {domain!r}. For it: {', '.join(defaults(domain))}.")
    extra: dict[str, Any] = {} if domain == "image" else {"max_count": max_count}
    result: Tensor = CORRUPTIONS.load(name)(x, severity, draws, **extra)
    return result


def evaluate_corruptions(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ids: Sequence[str],
    severities: Sequence[int] = SEVERITIES,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> list[CorruptionRow]:
    """Which of the samples `x` [B, ...] with labels `y` [B] the model classifies correctly under each corruption.

    `names` default to the corruptions of the model's domain. The draws are keyed by `ids`, one a sample, so a row depends
    neither on the batch size nor on the order. Raises ConfigError for an unknown name or severity, DataError for bad data.
    """
    spec = getattr(model, "spec", None)
    domain, max_count = getattr(spec, "domain", "image"), getattr(spec, "max_count", None)
    names = defaults(domain) if names is None else names
    if y.dtype != torch.int64 or not len(x) == len(y) == len(ids) > 0:
        raise DataError(f"Expected as many int64 labels and ids as samples, got {len(x)}, {len(y)} ({y.dtype}) and {len(ids)}.")
    keys = tuple(map(str, ids))
    rows = []
    with frozen(model):
        for name in names:
            for severity in severities:
                task = Draws(seed, "corruption", keys)
                correct = []
                for start in range(0, len(x), _CHUNK):
                    here = range(start, min(start + _CHUNK, len(x)))
                    draws = task.select(here)
                    shifted = corrupted(name, x[here.start : here.stop], severity, draws, domain=domain, max_count=max_count)
                    own = draws.child("predict", name, severity) if is_stochastic(model) else None
                    correct.append(predict(model, shifted, own).argmax(1).cpu() == y[here.start : here.stop].cpu())
                rows.append(CorruptionRow(name, severity, torch.cat(correct).numpy()))
    return rows


@dataclass(frozen=True)
class MeanCorruptionError:
    """The mean corruption error, at least 0, its 95 % interval, the number of samples, and each corruption's mean error.

    `relative`: corruption errors are divided by a baseline's, so that 1 is as bad as the baseline.
    """

    value: float
    low: float
    high: float
    count: int
    relative: bool
    errors: dict[str, float]


def mean_corruption_error(rows: Sequence[CorruptionRow], baseline: Mapping[str, float] | None = None) -> MeanCorruptionError:
    """mCE = mean over corruptions c of sum_s E(s, c) / sum_s E_baseline(s, c); without a baseline, the mean error.

    `baseline` holds, for every corruption of `rows`, the baseline's error in (0, 1] averaged over the same severities; it is
    taken as exact. All rows must be of the same samples in the same order.

    The interval is Wilson's on the number of samples and not of evaluations: a sample's errors under several corruptions
    are not independent, and the mean of their weighted sum varies no more than a proportion does.
    """
    table: dict[str, dict[int, NDArray[np.bool_]]] = {}
    for row in rows:
        if row.severity in table.setdefault(row.corruption, {}):
            raise ConfigError(f"Expected one row for {row.corruption!r} at severity {row.severity}, got several.")
        table[row.corruption][row.severity] = ~row.correct
    if len({(frozenset(each), *{len(wrong) for wrong in each.values()}) for each in table.values()}) != 1:
        raise ConfigError("Expected at least one row, and all corruptions at the same severities on the same samples.")
    errors = {name: float(np.mean([wrong.mean() for wrong in each.values()])) for name, each in table.items()}
    if baseline is not None:
        bad = [name for name in errors if not 0 < baseline.get(name, 0.0) <= 1]
        if bad:
            raise ConfigError(
                f"Expected the baseline's mean error in (0, 1] for each corruption; missing or outside: {', '.join(bad)}."
            )
    weights = {name: 1 / (len(errors) * (baseline[name] if baseline is not None else 1.0)) for name in errors}
    value, largest, count = sum(weights[name] * errors[name] for name in errors), sum(weights.values()), len(rows[0].correct)
    low, high = wilson_of_mean(value / largest, count)
    return MeanCorruptionError(value, low * largest, high * largest, count, baseline is not None, errors)
