"""What the cells of an audit say about whether they can be trusted: the verdict's findings, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.attacks import verdict
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.events import SDA, EventAttack
from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.data import Dataset
from trustsnn.interop import WrappedModel
from trustsnn.models.contract import check_contract
from trustsnn.rng import Draws
from trustsnn.runners.plan import AnyAttack, PlannedCell

Findings = list[dict[str, Any]]
Correct = NDArray[np.bool_]  # per sample whether the model stays correct

NOISE = (0.4 / 255, 2 / 255)  # the first rounds away where pixels are rounded to 8 bits
UNBOUNDED_SAMPLES = 32
MASKING_SAMPLES = 64


def doubtful(finding: Mapping[str, Any]) -> bool:
    """Whether a finding casts doubt on the figures of its cell; a note on how a model was wrapped does not."""
    return bool(finding.get("doubt", True))


def of_the_model(model: nn.Module, x: Tensor, classes: int) -> Findings:
    """Findings on the model itself, on one block of clean samples: the contract, how it was wrapped, and whether it rounds its
    input."""
    found = check_contract(model, x, classes)
    if isinstance(model, WrappedModel):
        found = [_with_state(each, model.left_behind(x)) for each in found] if found else model.notes(x)
    if any(map(doubtful, found)) or is_stochastic(model) or model.spec.domain != "image":  # type: ignore[union-attr]
        return found
    ids = tuple(f"noise-{i}" for i in range(len(x)))
    noise = 2 * Draws(0, "input-rounding", ids).uniform(tuple(x.shape[1:])) - 1
    eighth = (x * 255).round() / 255  # from the middle of a step of 8 bits the noise does not reach the next one
    with frozen(model):
        still = predict(model, eighth)
        small, large = ((predict(model, (eighth + size * noise).clamp(0, 1)) != still).any(1).numpy() for size in NOISE)
    return found + verdict.input_rounded(small, large, NOISE)


def _with_state(finding: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A finding on the contract with the attributes that a forward of the module changes."""
    if not names:
        return finding
    told = f" A forward changes {', '.join(names[:5])}: put that back with trustsnn.wrap(..., reset=...)."
    return {
        **finding,
        "message": finding["message"] + told,
        "evidence": {**finding["evidence"], "attributes_changed": len(names)},
    }


def of_ties(logits: NDArray[np.float32]) -> Findings:
    """Whether the two highest logits of clean samples [B, K] are equal."""
    highest = np.sort(logits, axis=1)[:, -2:]
    return verdict.tied(highest[:, 0] == highest[:, 1])


def of_the_attack(
    before: Sequence[PlannedCell], planned: PlannedCell, attack: AnyAttack, correct: Correct, outcome: Callable[[str], Correct]
) -> Findings:
    """Findings on an attack from the cells that finished before it: one step against many, steps against twice the steps,
    gradients against none. `outcome` reads what a cell left, by its key."""
    found: Findings = []
    white = np.ones_like(correct)
    for other in before:
        earlier = other.attack
        if earlier is None or attack.name == "fgsm":
            continue
        same = _threat(earlier) == _threat(attack)
        through = other.cell["estimator"] == planned.cell["estimator"]
        if earlier.name == "fgsm" and same and (through or attack.name == SNNAutoAttack.name):
            found += verdict.one_step_beats_iterative(outcome(other.key), correct)
        steps = _twice(earlier, attack)
        if steps is not None and through:
            found += verdict.more_steps_still_gain(outcome(other.key), correct, steps)
        if same and isinstance(attack, EventAttack) and isinstance(earlier, EventAttack):
            white &= outcome(other.key) if earlier.white_box else True
    if isinstance(attack, EventAttack) and not attack.white_box and any(_white_box(other, attack) for other in before):
        found += verdict.beats_white_box("black-box", int(white.sum()), int((white & ~correct).sum()), len(correct))
    return found


def _threat(attack: AnyAttack) -> tuple[Any, ...]:
    return attack.norm, attack.eps, getattr(attack, "targeted", False)


def _white_box(other: PlannedCell, attack: EventAttack) -> bool:
    earlier = other.attack
    return isinstance(earlier, EventAttack) and earlier.white_box and _threat(earlier) == _threat(attack)


def _twice(before: AnyAttack, attack: AnyAttack) -> tuple[int, int] | None:
    """The steps of two attacks that are the same but for twice the steps. A step size that follows from the steps may differ."""
    name = "iterations" if isinstance(attack, EventAttack) else "steps"
    steps: tuple[int, int] = getattr(before, name, 0), getattr(attack, name, 0)
    twice = type(before) is type(attack) and steps[0] > 0 and steps[1] == 2 * steps[0]
    return steps if twice and replace(before, **{name: steps[1]}) == attack else None  # type: ignore[arg-type]


def of_the_ensemble(members: Sequence[Mapping[str, Any]], count: int) -> Findings:
    """Findings on an ensemble from what each member broke of `count` samples: attacks without the model's gradients that beat
    those with them."""
    found = []
    for kind in ("black-box", "transfer"):
        rows = [row for row in members if row["kind"] == kind]
        if rows and any(row["kind"] == "white-box" for row in members):
            broken = sum(row["broken"] for row in rows)
            found += verdict.beats_white_box(kind, rows[0]["tried"], broken, count)
    return found


def own_surrogate(model: nn.Module, attack: AnyAttack, data: Dataset, broken: NDArray[np.int64]) -> Correct | None:
    """Of the samples at the rows `broken`, which the ensemble, or an attack on events through another estimator, broke, those that
    the same through the model's own surrogate leaves correct with twice the budget. None for any other attack."""
    own = _through_own(model, attack)
    return None if own is None else _left(model, own, data, broken[:MASKING_SAMPLES])


def _through_own(model: nn.Module, attack: AnyAttack) -> AnyAttack | None:
    """An attack through the model's own surrogate with twice the budget of one through others; None for any other attack."""
    if isinstance(attack, SNNAutoAttack):
        member = next(member for member in attack.members(model) if member.label.endswith("through own"))
        eps = min(2 * attack.eps, 1.0) if attack.norm == "linf" else 2 * attack.eps
        return member.make(eps=eps, norm=attack.norm, eot=attack.eot, seed=attack.seed)
    if isinstance(attack, EventAttack) and attack.white_box and attack.estimator is not None and attack.budget is not None:
        return replace(attack, estimator=None, budget=2 * attack.budget)
    return None


def of_an_unbounded_attack(model: nn.Module, attack: AnyAttack, data: Dataset, rows: NDArray[np.int64]) -> Findings:
    """Whether the ensemble (on events: SDA) leaves any of the samples at `rows` correct when it may change every input into
    any other. No other attack is asked, nor SDA through another estimator than the model's own, which may be a poor one."""
    asked = isinstance(attack, SNNAutoAttack) or (isinstance(attack, SDA) and attack.estimator is None)
    if not asked or not len(rows):
        return []
    if isinstance(attack, SDA):
        free: AnyAttack = replace(attack, budget=None)
    else:
        free = replace(attack, eps=1.0 if attack.norm == "linf" else math.sqrt(data.batch(rows[:1])[0].size))  # type: ignore[arg-type]
    return verdict.unbounded_attack_fails(_left(model, free, data, rows))


def _left(model: nn.Module, attack: AnyAttack, data: Dataset, rows: NDArray[np.int64]) -> Correct:
    """Which of the samples at `rows` the model gets right under an attack."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    x, y = (torch.from_numpy(values) for values in data.batch(rows))
    ids = tuple(data.ids[i] for i in rows)
    result = attack.run(model, x, y, ids)
    with frozen(model):
        draws = Draws(attack.seed, "predict", ids) if is_stochastic(model) else None
        left: Correct = (predict(model, result.adversarial, draws).argmax(1) == y).numpy()
    return left


def event_domain_violated(largest: float, budget: float, low: float, high: float, most: int, whole: bool) -> Findings:
    """Finding where an attack on events changed more of them than its budget, or left the whole numbers from 0 to `most`."""
    if largest <= budget and whole and low >= 0 and high <= most:
        return []
    evidence = {"largest_change": largest if math.isfinite(largest) else None, "budget": budget}
    return [
        {
            "type": "domain-violated",
            "message": "The attack left its budget of events, or frames of whole numbers of events, so its figure is not about the "
            "stated threat.",
            "evidence": {**evidence, "lowest_value": low, "highest_value": high, "max_count": most, "whole_numbers": whole},
            "threshold": budget,
            "source": "Carlini 2019",
        }
    ]


def merged(parts: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What each member tried and broke over several batches."""
    total: dict[str, dict[str, Any]] = {}
    for row in (row for part in parts for row in part):
        seen = total.setdefault(row["member"], {**row, "tried": 0, "broken": 0})
        seen["tried"] += row["tried"]
        seen["broken"] += row["broken"]
    return list(total.values())
