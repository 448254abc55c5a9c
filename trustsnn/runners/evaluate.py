"""One evaluation of the model without an attack, or under one: its record, its outcomes by sample, its pictures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustsnn.attacks.autoattack import EnsembleResult, SNNAutoAttack, outcome
from trustsnn.attacks.events import EventAttack
from trustsnn.attacks.events.base import event_size
from trustsnn.attacks.norms import size
from trustsnn.attacks.verdict import domain_violated, masked, nonfinite_gradients, zero_gradients
from trustsnn.runners import findings
from trustsnn.runners.measure import Job, Rows, measure, status_of
from trustsnn.runners.pictures import pictures, shown
from trustsnn.runners.plan import AnyAttack, PlannedCell, balls
from trustsnn.runners.resolve import first_batch


class Evaluated(NamedTuple):
    """The line of a cell, its per-sample outcomes and its pictures, as far as its kind has them."""

    record: dict[str, Any]
    samples: pa.Table | None
    pictures: dict[str, NDArray[Any]] | None


def clean(job: Job, planned: PlannedCell) -> Evaluated:
    """The evaluation without an attack, with the findings on the model itself."""
    reasons = findings.of_the_model(job.model, first_batch(job.data), job.model.spec.classes)  # type: ignore[union-attr, arg-type]
    measured = measure(job, lambda x, y, ids, rows: x)
    reasons += findings.of_ties(measured.logits)
    return Evaluated(measured.record(planned, reasons, {}), measured.table(planned.key, job.data.ids), None)


class _Attacked:
    """An attack on a data set, batch by batch, and what was seen of it."""

    def __init__(self, job: Job, attack: AnyAttack, keeps: bool) -> None:
        self.job, self.attack, self.keeps = job, attack, keeps
        self.zero, self.bad = (np.zeros(len(job.data), dtype=bool) for _ in range(2))
        self.members: list[list[dict[str, Any]]] = []
        self.broken_by: list[str | None] = []
        self.low, self.high, self.largest, self.whole = 0.0, 0.0, 0.0, True
        self.made: list[Tensor] = []

    def __call__(self, x: Tensor, y: Tensor, ids: tuple[str, ...], rows: Rows) -> Tensor:
        result = self.attack.run(self.job.model, x, y, ids)
        changed, delta = result.adversarial, result.adversarial - x
        self.zero[rows], self.bad[rows] = result.zero_gradient.numpy(), result.nonfinite_gradient.numpy()
        if isinstance(result, EnsembleResult):
            self.members.append(outcome(result))
            self.broken_by += result.names()
        self.low, self.high = min(self.low, float(changed.min())), max(self.high, float(changed.max()))
        sizes = (event_size if isinstance(self.attack, EventAttack) else size)(delta, self.attack.norm)
        self.largest = max(self.largest, float(sizes.max()))
        self.whole &= torch.equal(changed, changed.round())
        if self.keeps:
            self.made.append(changed)
        return changed

    def findings(self, attacked: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """On the attack's gradients at the samples that it `attacked`, and on its domain."""
        found = [*zero_gradients(self.zero[attacked]), *nonfinite_gradients(self.bad[attacked])]
        eps = float(self.attack.eps or 0.0)
        if not isinstance(self.attack, EventAttack):
            return found + domain_violated(self.largest, eps, self.low, self.high)
        most = int(self.job.data.max_count or 1)
        return found + findings.event_domain_violated(self.largest, eps, self.low, self.high, most, self.whole)


def attacked(job: Job, planned: PlannedCell, attack: AnyAttack) -> Evaluated:
    """The evaluation under an attack, with the findings that it gives reason for by itself; see `beside_the_others`."""
    without = job.run.samples(job.plan[0].key)
    seen = _Attacked(job, attack, any(other.of == planned.key for other in job.plan))
    measured = measure(job, seen, shown(without).tolist())
    if seen.made:
        job.run.keep(planned.key, torch.cat(seen.made).numpy())
    right = job.correct(job.plan[0].key)
    reasons = seen.findings(right)
    diagnostics: dict[str, Any] = {
        "zero_gradient_fraction": float(seen.zero[right].mean()) if right.any() else 0.0,
        "nonfinite_gradients": int(seen.bad[right].sum()),
    }
    if seen.members:
        diagnostics["members"] = findings.merged(seen.members)
        reasons += findings.of_the_ensemble(diagnostics["members"], len(right))
    left = findings.own_surrogate(job.model, attack, job.data, np.flatnonzero(right & ~measured.correct))
    largest = attack.eps == max(eps for _, eps in balls(job.plan))
    alone = not any(findings.looks_behind(each.attack) for each in job.plan)
    if left is None and largest and alone:
        left = findings.behind_the_surrogate(job.model, attack, job.data, np.flatnonzero(right & measured.correct))
    if left is not None:
        diagnostics["own_surrogate_at_twice_the_budget"] = {"left": int(left.sum()), "count": len(left)}
        reasons += masked(left)
    if largest:
        rows = np.flatnonzero(right)[: findings.UNBOUNDED_SAMPLES]
        reasons += findings.of_an_unbounded_attack(job.model, attack, job.data, rows)
        quick = findings.quick_of(attack) if alone or isinstance(attack, SNNAutoAttack) else None
        if quick is not None:
            if quick not in job.searched:
                job.searched[quick] = findings.of_a_search(job.model, quick, job.data, rows)
            reasons += job.searched[quick]
    table = measured.table(planned.key, job.data.ids, seen.broken_by)
    return Evaluated(measured.record(planned, reasons, diagnostics), table, pictures(job.data, without, measured))


def beside_the_others(job: Job, planned: PlannedCell) -> dict[str, Any]:
    """The record of a finished cell with the findings that the other cells of the run give reason for. The order in which they were
    evaluated, and whether one failed at first, makes no difference."""
    found: dict[str, Any] = job.run.records[planned.key]
    alike = [p for p in job.plan if p.attack is not None and p.chips is None and p.key in job.run.records]
    if planned not in alike:
        return found
    more = findings.of_the_others(planned, [each for each in alike if each is not planned], job.correct)
    reasons = found["reasons"] + [each for each in more if each not in found["reasons"]]
    return {**found, "reasons": reasons, "status": status_of(reasons)}
