"""Extraction of a model: copies from more and more queries, what each is worth, and a folder with the curve."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from trustsnn.attacks.leakage.extraction import Extraction, likeness, misled
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.files import write_text
from trustsnn.models import build
from trustsnn.reports.extraction import FORMAT, page
from trustsnn.runners.environment import environment
from trustsnn.runners.judged import Judged
from trustsnn.runners.resolve import fit
from trustsnn.runners.subject import data_record, model_record
from trustsnn.training import accuracy


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done to a model.

    Args:
        attack: how a copy comes about.
        budgets: numbers of queries, each of a copy of its own.
        copy: arguments of `trustsnn.models.build`, among them the name, for what input and classes leave open.
        eps, steps: of PGD on the copy; eps 0 leaves transfer out.
    """

    attack: Extraction = field(default_factory=Extraction)
    budgets: tuple[int, ...] = (100, 300, 1000)
    copy: dict[str, Any] = field(default_factory=lambda: {"name": "conv"})
    eps: float = 0.1
    steps: int = 20

    def __post_init__(self) -> None:
        if not self.budgets or min(self.budgets) < 1:
            raise ConfigError(f"Expected budgets of at least 1 query, at least one, got {list(self.budgets)}.")
        if not (self.eps >= 0 and self.steps >= 1):
            raise ConfigError(f"Expected eps of at least 0 and at least 1 step, got {self.eps} and {self.steps}.")
        object.__setattr__(self, "budgets", tuple(sorted(set(self.budgets))))


def extraction(
    model: nn.Module, queries: Dataset, data: Dataset, out: Path, plan: Plan | None = None, *,
    told: Callable[[str], None] = lambda line: None,
) -> Judged:  # fmt: skip
    """Copy `model` with its answers to `queries` under each budget, and write extraction.json and extraction.html. Every figure is of
    `data`, which no copy learns from.

    Raises:
        ConfigError: queries or data do not fit the model, share samples, or are fewer than a budget.
    """
    plan = plan or Plan()
    spec = fit(model, data)
    _check(queries, data, plan.budgets)
    if queries.domain != spec.domain or queries.sample_shape != spec.input_shape:
        raise ConfigError(
            f"The queries {queries.name} ({queries.domain}, samples {list(queries.sample_shape)}) do not fit the model ({spec.domain}, "
            f"samples {list(spec.input_shape)})."
        )
    seed, transfers = plan.attack.seed, plan.eps > 0 and spec.domain == "image"
    settings = {"steps": spec.steps, **plan.copy}
    own = accuracy(model, data, seed=seed)
    copies = []
    for budget in plan.budgets:
        fresh = build(
            input_shape=spec.input_shape,
            classes=spec.classes,
            domain=spec.domain,
            max_count=spec.max_count,
            seed=seed + 1,
            **settings,
        )
        copy = plan.attack(model, fresh, queries, budget)
        row = {"queries": budget, **asdict(likeness(model, copy, data, seed))}
        row["transfer"] = misled(model, copy, data, plan.eps, plan.steps, seed) if transfers else None
        copies.append(row)
        told(
            f"{budget} queries: agreement {row['agreement']['value']:.1%} of {len(data)}, accuracy {row['accuracy']['value']:.1%}"
        )
    record: dict[str, Any] = {
        "format": FORMAT,
        "model": model_record(model, spec, model_hash(model)),
        "data": data_record(data),
        "queries": data_record(queries),
        "copy": settings,
        "attack": plan.attack.describe(),
        "seed": seed,
        "eps": plan.eps if transfers else None,
        "steps": plan.steps,
        "accuracy": own,
        "white_box": misled(model, model, data, plan.eps, plan.steps, seed) if transfers else None,
        "random_signs": misled(model, None, data, plan.eps, plan.steps, seed) if transfers else None,
        "copies": copies,
        "environment": environment(),
    }
    write_text(out / "extraction.html", page(record))
    write_text(out / "extraction.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return Judged(record, out / "extraction.html", 0)


def _check(queries: Dataset, data: Dataset, budgets: Sequence[int]) -> None:
    if max(budgets) > len(queries):
        raise ConfigError(
            f"Expected at least {max(budgets)} queries for the largest budget, got {len(queries)} of {queries.name}."
        )
    both = set(queries.ids) & set(data.ids)
    if both:
        raise ConfigError(
            f"The queries and the samples of the figures share {len(both)} samples, such as {min(both)}: a copy would be judged by what it "
            "learned. Take another split or data set as queries."
        )
