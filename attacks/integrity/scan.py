"""Is a given model backdoored? Three detectors, each with its own evidence, and a verdict that needs two of them to name one class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from trustsnn.attacks.integrity.evidence import Evidence
from trustsnn.attacks.integrity.inversion import Inversion
from trustsnn.attacks.integrity.margin import Margin
from trustsnn.attacks.integrity.search import chance_of
from trustsnn.attacks.integrity.sweep import Sweep
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.spec import ModelSpec
from trustsnn.statistics import Figure
from trustsnn.training import accuracy

BACKDOORED, NOT_FOUND, INCONCLUSIVE = "backdoored", "not found", "inconclusive"
CLASSES = 4  # at least, for one of them to stand out from the others
FEWEST = 9  # reference models: with n of them a clean model is above all of theirs in 1 of n + 1 cases


class Detector(Protocol):
    """Something that says of each class of a model how suspicious it is."""

    @property
    def name(self) -> str: ...

    def run(self, model: nn.Module, data: Dataset, seed: int = 0) -> Evidence: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Verdict:
    """`outcome` is one of "backdoored", "not found" and "inconclusive"; `classes` are those that at least two detectors name, `reasons` why
    an outcome is no clear one."""

    outcome: str
    classes: tuple[int, ...]
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"outcome": self.outcome, "classes": list(self.classes), "reasons": list(self.reasons)}


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The detectors, each run on the same clean samples. `scan.run(model, data)` gives the evidence, `judged` the verdict.

    `bounds` are thresholds of detectors by name in place of their own, with `references`, the number of clean models they come from; see
    `calibrated`.
    """

    detectors: tuple[Detector, ...] = (Inversion(), Margin(), Sweep())
    seed: int = 0
    bounds: Mapping[str, float] | None = None
    references: int = 0

    def run(self, model: nn.Module, data: Dataset, told: Callable[[str], None] = lambda line: None) -> list[Evidence]:
        """The evidence of each detector that the model has something for. `model` stays as it is.

        Raises:
            ConfigError: the model has fewer than 4 classes.
        """
        spec: ModelSpec = model.spec  # type: ignore[assignment]
        if spec.classes < CLASSES:
            raise ConfigError(
                f"A scan looks for a class that stands out: expected a model of at least {CLASSES} classes, got {spec.classes}."
            )
        data = data.select(np.argsort(data.ids))  # sums over samples do not depend on their order
        found = []
        for detector in self.detectors:
            if refusal(detector, model) is not None:
                continue
            told(f"scan: {detector.name}")
            evidence = detector.run(model, data, self.seed)
            if self.bounds is not None:
                source = f"the largest of {self.references} clean reference models"
                evidence = evidence.against(self.bounds[detector.name], source)
            found.append(evidence)
        return found

    def left_out(self, model: nn.Module) -> dict[str, str]:
        """The detectors that have nothing to look at, with why."""
        return {each.name: why for each in self.detectors if (why := refusal(each, model)) is not None}

    def calibrated(self, references: Iterable[Sequence[Evidence]]) -> Scan:
        """The same with a threshold for each detector: the largest index of any class of any of some reference models, which are known to
        be clean and trained as the model that is scanned. A clean model is above that of one detector in 1 of n + 1 cases.

        Raises:
            ConfigError: there are fewer than 9, or one of them could not be judged.
        """
        given = list(references)
        if len(given) < FEWEST:
            raise ConfigError(
                f"Expected at least {FEWEST} reference models, got {len(given)}: with n of them a clean model is beyond the bound of each "
                "detector in 1 of n + 1 cases."
            )
        bounds: dict[str, float] = {}
        for each in given:
            for evidence in each:
                if evidence.problem is not None:
                    raise ConfigError(f"A reference model cannot be judged by {evidence.detector}: {evidence.problem}.")
                bounds[evidence.detector] = max(bounds.get(evidence.detector, -np.inf), evidence.largest)
        return Scan(detectors=self.detectors, seed=self.seed, bounds=bounds, references=len(given))

    def describe(self) -> dict[str, Any]:
        """The settings as plain values."""
        bounds = None if self.bounds is None else dict(self.bounds)
        settings = [each.describe() for each in self.detectors]
        return {"detectors": settings, "seed": self.seed, "bounds": bounds, "references": self.references}


def refusal(detector: Detector, model: nn.Module) -> str | None:
    """Why a detector has nothing to look at in `model`; None where it has."""
    asked: Callable[[nn.Module], str | None] = getattr(detector, "refusal", lambda model: None)
    return asked(model)


def judged(evidence: Sequence[Evidence], clean: Figure, chance: float) -> Verdict:
    """The verdict. Backdoored: at least two detectors name the same class. Inconclusive: one alone names a class, a detector could not judge,
    or the model is no better than guessing on clean samples. Not found: none of these.

    Args:
        clean: the accuracy on the clean samples.
        chance: what always saying their most frequent class gets right.
    """
    named = [each for one in evidence for each in one.hits]
    classes = tuple(sorted({each for each in named if named.count(each) > 1}))
    reasons = [f"{one.detector}: {one.problem}" for one in evidence if one.problem is not None]
    if clean["value"] <= chance:
        reasons.append(f"the model is right on {clean['value']:.1%} of {clean['count']} clean samples, no better than guessing")
        return Verdict(INCONCLUSIVE, classes, tuple(reasons))
    for one in evidence:
        alone = [each for each in one.hits if each not in classes]
        if alone and not classes:
            reasons.append(f"{one.detector} alone names class {', '.join(map(str, alone))}")
    if classes:
        return Verdict(BACKDOORED, classes, tuple(reasons))
    return Verdict(INCONCLUSIVE if reasons else NOT_FOUND, (), tuple(reasons))


def verdict_of(model: nn.Module, data: Dataset, evidence: Sequence[Evidence], seed: int = 0) -> tuple[Verdict, Figure]:
    """`judged` with the accuracy of `model` on the clean samples `data`, which comes second."""
    clean = accuracy(model, data, seed=seed)
    return judged(evidence, clean, chance_of(data)), clean
