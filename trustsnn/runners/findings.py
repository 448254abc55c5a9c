"""What the cells of an audit say about whether they can be trusted: the verdict's findings, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.attacks import Attack, verdict
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.models.contract import check_contract
from trustsnn.rng import Draws
from trustsnn.runners.plan import PlannedCell

Findings = list[dict[str, Any]]
Correct = NDArray[np.bool_]  # per sample whether the model stays correct

NOISE = 0.4 / 255  # rounds away where pixels are rounded to 8 bits
UNBOUNDED_SAMPLES = 32


def of_the_model(model: nn.Module, x: Tensor, classes: int) -> Findings:
    """Findings on the model itself, on one block of clean samples: the contract, and whether it rounds its input."""
    found = check_contract(model, x, classes)
    if found or is_stochastic(model) or model.spec.domain != "image":  # type: ignore[union-attr]
        return found
    ids = tuple(f"noise-{i}" for i in range(len(x)))
    noise = NOISE * (2 * Draws(0, "input-rounding", ids).uniform(tuple(x.shape[1:])) - 1)
    eighth = (x * 255).round() / 255  # from the middle of a step of 8 bits the noise does not reach the next one
    with frozen(model):
        unchanged = (predict(model, eighth) == predict(model, (eighth + noise).clamp(0, 1))).all(1)
    return verdict.input_rounded(unchanged.numpy(), NOISE)


def of_ties(logits: NDArray[np.float32]) -> Findings:
    """Whether the two highest logits of clean samples [B, K] are equal."""
    highest = np.sort(logits, axis=1)[:, -2:]
    return verdict.tied(highest[:, 0] == highest[:, 1])


def of_the_attack(
    finished: Sequence[PlannedCell], planned: PlannedCell, attack: Attack, correct: Correct, outcome: Callable[[str], Correct]
) -> Findings:
    """Findings on an attack from the cells that finished before it: one step against many, steps against twice the steps.
    `outcome` reads what a cell left, by its key."""
    found: Findings = []
    if attack.name == "fgsm":
        return found
    for other in finished:
        before = other.attack
        if before is None:
            continue
        same = (before.norm, before.eps, before.targeted) == (attack.norm, attack.eps, attack.targeted)
        through = other.cell["estimator"] == planned.cell["estimator"]
        if before.name == "fgsm" and same and (through or attack.name == SNNAutoAttack.name):
            found += verdict.one_step_beats_iterative(outcome(other.key), correct)
        steps = _twice(before, attack)
        if steps is not None and through:
            found += verdict.more_steps_still_gain(outcome(other.key), correct, steps)
    return found


def _twice(before: Attack, attack: Attack) -> tuple[int, int] | None:
    """The steps of two attacks that are the same but for twice the steps. A step size that follows from the steps may differ."""
    steps: tuple[int, int] = getattr(before, "steps", 0), getattr(attack, "steps", 0)
    twice = type(before) is type(attack) and steps[0] > 0 and steps[1] == 2 * steps[0]
    return steps if twice and replace(before, steps=steps[1]) == attack else None  # type: ignore[call-arg]


def of_the_ensemble(
    members: Sequence[Mapping[str, Any]], correct: NDArray[np.bool_], broken_by: Sequence[str | None]
) -> Findings:
    """Findings on an ensemble from what each member broke: masking by the model's own surrogate, and attacks without the
    model's gradients that beat those with them."""
    count, found = len(correct), []
    own = [row["member"] for row in members if row["member"].endswith("through own")]
    if own and any(row["kind"] == "white-box" and row["member"] not in own for row in members):
        fell_otherwise = np.array([name is not None and name not in own for name in broken_by])
        found += verdict.masked(correct | fell_otherwise, correct)
    for kind in ("black-box", "transfer"):
        rows = [row for row in members if row["kind"] == kind]
        if rows and any(row["kind"] == "white-box" for row in members):
            broken = sum(row["broken"] for row in rows)
            found += verdict.beats_white_box(kind, rows[0]["tried"], broken, count)
    return found


def of_an_unbounded_attack(model: nn.Module, attack: SNNAutoAttack, x: Tensor, y: Tensor, ids: tuple[str, ...]) -> Findings:
    """Whether the ensemble leaves any of some samples correct when it may change every input into any other."""
    eps = 1.0 if attack.norm == "linf" else math.sqrt(x[0].numel())
    result = replace(attack, eps=eps).run(model, x, y, ids)
    with frozen(model):
        draws = Draws(attack.seed, "predict", ids) if is_stochastic(model) else None
        left = predict(model, result.adversarial, draws).argmax(1) == y
    return verdict.unbounded_attack_fails(left.numpy())


def merged(parts: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What each member tried and broke over several batches."""
    total: dict[str, dict[str, Any]] = {}
    for row in (row for part in parts for row in part):
        seen = total.setdefault(row["member"], {**row, "tried": 0, "broken": 0})
        seen["tried"] += row["tried"]
        seen["broken"] += row["broken"]
    return list(total.values())
