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
from trustsnn.attacks.base import Attack
from trustsnn.attacks.estimators import estimator
from trustsnn.attacks.events import SDA, EventAttack
from trustsnn.attacks.square import Square
from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.data import Dataset
from trustsnn.interop import WrappedModel
from trustsnn.models.contract import check_contract
from trustsnn.models.spec import ModelSpec
from trustsnn.rng import Draws
from trustsnn.runners import rounding
from trustsnn.runners.plan import AnyAttack, PlannedCell
from trustsnn.runners.profiles import WIDE

Findings = list[dict[str, Any]]
Correct = NDArray[np.bool_]  # per sample whether the model stays correct

UNBOUNDED_SAMPLES = 32
MASKING_SAMPLES = 64
SEARCH_SAMPLES, SEARCH_QUERIES = 32, 100


def doubtful(finding: Mapping[str, Any]) -> bool:
    """Whether a finding casts doubt on the figures of its cell; a note on how a model was wrapped does not."""
    return bool(finding.get("doubt", True))


def of_the_model(model: nn.Module, x: Tensor, classes: int) -> Findings:
    """Findings on the model itself, on one block of clean samples: the contract, how it was wrapped, and whether it rounds its
    input."""
    found = check_contract(model, x, classes)
    if isinstance(model, WrappedModel):
        found = [_with_state(each, model.left_behind(x)) for each in found] if found else model.notes(x)
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    coded = not isinstance(model, WrappedModel) and spec.encoder != "direct"  # into times of spikes, as its spec says
    if any(map(doubtful, found)) or is_stochastic(model) or spec.domain != "image" or coded:
        return found
    with frozen(model):
        return found + rounding.of_input(model, x)


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


def of_the_others(planned: PlannedCell, others: Sequence[PlannedCell], outcome: Callable[[str], Correct]) -> Findings:
    """Findings on an attack on the network from the `others` of the run, whatever their order: one step against many, steps against
    twice the steps, gradients against none. `outcome` reads which samples a cell left correct, by its key."""
    attack = planned.attack
    if attack is None:
        return []
    found: Findings = []
    correct, route = outcome(planned.key), _route(attack)
    rivals = [(each, each.attack) for each in others if each.attack is not None]
    like = [(each, rival) for each, rival in rivals if each.cell["estimator"] == planned.cell["estimator"]]
    if route == "white-box" and attack.name != "fgsm":
        for other, rival in rivals if attack.name == SNNAutoAttack.name else like:
            if rival.name == "fgsm" and _threat(rival) == _threat(attack):
                found += verdict.one_step_beats_iterative(outcome(other.key), correct)
    if not any(_more_steps(attack, rival) for _, rival in like):  # the longest of its kind
        for other, rival in like:
            steps = _more_steps(rival, attack)
            if steps is not None and steps[1] == 2 * steps[0]:
                found += verdict.more_steps_still_gain(outcome(other.key), correct, steps)
    white = [outcome(other.key) for other, rival in rivals if _route(rival) == "white-box" and _threat(rival) == _threat(attack)]
    if route != "white-box" and white:
        left = np.logical_and.reduce(white)
        found += verdict.beats_white_box(route, int(left.sum()), int((left & ~correct).sum()), len(correct))
    return found


def _threat(attack: AnyAttack) -> tuple[Any, ...]:
    return attack.norm, attack.eps, getattr(attack, "targeted", False)


def _route(attack: AnyAttack) -> str:
    return attack.route if isinstance(attack, Attack) else "white-box" if attack.white_box else "black-box"


def _more_steps(before: AnyAttack, attack: AnyAttack) -> tuple[int, int] | None:
    """The steps of two attacks that are the same but for more steps. A step size that follows from the steps may differ."""
    name = "iterations" if isinstance(attack, EventAttack) else "steps"
    steps: tuple[int, int] = getattr(before, name, 0), getattr(attack, name, 0)
    more = type(before) is type(attack) and 0 < steps[0] < steps[1]
    return steps if more and replace(before, **{name: steps[1]}) == attack else None  # type: ignore[arg-type]


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


def quick_of(attack: AnyAttack) -> SNNAutoAttack | None:
    """The quick ensemble under the threat of an ensemble, or of an attack on images that follows the model's own gradients; None for any
    other attack."""
    if not isinstance(attack, Attack):
        return None
    own = attack.route == "white-box" and attack.estimator is None and not attack.targeted
    if not own or attack.norm not in SNNAutoAttack.norms or not math.isfinite(attack.eps):
        return None
    return SNNAutoAttack(eps=float(attack.eps), norm=attack.norm, eot=attack.eot, seed=attack.seed, profile="quick")


def looks_behind(attack: AnyAttack | None) -> bool:
    """Whether an attack goes through other estimators than the model's own, so that a plan with it needs nothing more to ask what that
    surrogate hides."""
    return isinstance(attack, SNNAutoAttack) or (isinstance(attack, EventAttack) and attack.estimator is not None)


def own_surrogate(model: nn.Module, attack: AnyAttack, data: Dataset, broken: NDArray[np.int64]) -> Correct | None:
    """Of the samples at the rows `broken`, which the ensemble, or an attack on events through another estimator, broke, those that
    the same through the model's own surrogate leaves correct with twice the budget. None for any other attack."""
    own = _through_own(model, attack)
    return None if own is None else _left(model, own, data, broken[:MASKING_SAMPLES])


def _through_own(model: nn.Module, attack: AnyAttack) -> AnyAttack | None:
    """An attack through the model's own surrogate with twice the budget of one through others; None for any other attack."""
    if isinstance(attack, SNNAutoAttack):
        member = next(member for member in attack.members(model) if member.label.endswith("through own"))
        return member.of(attack, eps=min(2 * attack.eps, 1.0) if attack.norm == "linf" else 2 * attack.eps)
    if isinstance(attack, EventAttack) and attack.white_box and attack.estimator is not None and attack.budget is not None:
        return replace(attack, estimator=None, budget=2 * attack.budget)
    return None


def behind_the_surrogate(model: nn.Module, attack: AnyAttack, data: Dataset, standing: NDArray[np.int64]) -> Correct | None:
    """As `own_surrogate`, for a single attack through the model's own surrogate: of the samples at the rows `standing`, which it left
    correct, those count that the quick ensemble breaks; on events, that the same attack through a wide surrogate breaks."""
    other = _through_wide(model, attack) if isinstance(attack, EventAttack) else quick_of(attack)
    if other is None or isinstance(attack, SNNAutoAttack):
        return None
    rows = standing[:MASKING_SAMPLES]
    return own_surrogate(model, other, data, rows[~_left(model, other, data, rows)])


def _through_wide(model: nn.Module, attack: EventAttack) -> EventAttack | None:
    """An attack on events through the model's own surrogate as one through a wide one; None for any other attack."""
    wide = estimator(**WIDE)
    asked = attack.white_box and attack.estimator is None and attack.budget is not None
    return replace(attack, estimator=wide) if asked and wide.refusal(model) is None else None


def of_an_unbounded_attack(model: nn.Module, attack: AnyAttack, data: Dataset, rows: NDArray[np.int64]) -> Findings:
    """Whether the ensemble (on events: SDA) leaves any of the samples at `rows` correct when it may change every input into
    any other. No other attack is asked, nor SDA through another estimator than the model's own, which may be a poor one."""
    asked = isinstance(attack, SNNAutoAttack) or (isinstance(attack, SDA) and attack.estimator is None)
    if not asked or not len(rows):
        return []
    if isinstance(attack, SDA):
        free: AnyAttack = replace(attack, budget=None)
    else:
        free = replace(attack, eps=_whole(attack.norm, data))  # type: ignore[arg-type]
    return verdict.unbounded_attack_fails(_left(model, free, data, rows))


def of_a_search(model: nn.Module, ensemble: SNNAutoAttack, data: Dataset, rows: NDArray[np.int64]) -> Findings:
    """Whether following the model's gradients is worth less than a search that takes none: of the samples at `rows`, the eps of `ensemble`
    is doubled until few queries of Square break half, or to the whole domain; its white-box members get those, at that eps. A gradient that
    misleads every estimator alike, as one of a wrong layer before the first neurons does, stands out there alone: at the eps that was
    asked for, where a search finds little, nothing is left to compare. Square has L-inf and L2."""
    rows = rows[:SEARCH_SAMPLES]
    if ensemble.norm not in Square.norms or not ensemble.eps or not len(rows):
        return []
    search = Square(queries=SEARCH_QUERIES, eps=ensemble.eps, norm=ensemble.norm, eot=ensemble.eot, seed=ensemble.seed)
    while (found := ~_left(model, search, data, rows)).mean() < 0.5:
        if search.eps >= _whole(search.norm, data):
            break
        search = replace(search, eps=min(2 * search.eps, _whole(search.norm, data)))
    standing = rows[found]
    for member in ensemble.members(model):
        if member.kind == "white-box":
            standing = standing[_left(model, member.of(ensemble, eps=search.eps), data, standing)]
    return verdict.search_beats_white_box(len(standing), int(found.sum()), SEARCH_QUERIES, search.eps)


def _whole(norm: str, data: Dataset) -> float:
    """The eps at which every image lies within the ball around any other."""
    shape = data.batch([0])[0].shape[1:]
    pixels = math.prod(shape[1:] if len(shape) == 3 else shape)
    return {"linf": 1.0, "l2": math.sqrt(math.prod(shape)), "l1": math.prod(shape), "l0": pixels}[norm]


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
