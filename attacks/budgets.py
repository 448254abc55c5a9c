"""What an attack needs to break each sample: the smallest eps by bisection, the number of steps, the number of restarts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, check_batch, content_ids
from trustsnn.attacks.curves import BudgetCurve, budget_curve
from trustsnn.attacks.norms import per_sample, size
from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws

MOST_ROUNDS = 20


@dataclass(frozen=True)
class SmallestEps:
    """The smallest perturbation that was found for each sample, in the order of `ids`.

    `eps` [N] (double, input units, in `norm`) is its size: 0 for a sample that is misclassified without one, infinity for one
    that was broken nowhere. `adversarial` [N, ...] proves it; an unbroken sample stands there unchanged. Each eps is an upper
    bound of what a better attack would need. The search went up to `largest`, down to cells of `width`.
    """

    ids: tuple[str, ...]
    eps: NDArray[np.float64]
    adversarial: Tensor
    norm: str
    largest: float
    width: float


class _Judged(NamedTuple):
    """The samples of a search with the model that judges them: for a stochastic model by the mean of its logits over `repeats`
    draws, the same for every perturbation of a sample, so that no sample is tried against new draws until it falls."""

    model: nn.Module
    x: Tensor
    y: Tensor
    draws: Draws
    repeats: int

    def correct(self, at: Tensor, rows: Tensor) -> Tensor:
        """Whether the model has each of `rows` right at `at`."""
        here = self.draws.select(rows.tolist())
        logits = [predict(self.model, at, here.child("eot", k)) for k in range(self.repeats)]
        return torch.stack(logits).mean(0).argmax(1) == self.y[rows]

    def attacked(self, attack: Attack, rows: Tensor) -> Tensor:
        """The adversarial samples of `rows`."""
        names = [self.draws.ids[row] for row in rows.tolist()]
        return attack(self.model, self.x[rows], self.y[rows], names)


def _judged(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str] | None) -> _Judged:
    check_batch(model, x, y)
    names = tuple(map(str, ids)) if ids is not None else content_ids(x)
    if len(names) != len(x):
        raise ConfigError(f"Expected {len(x)} ids, one a sample, got {len(names)}.")
    return _Judged(model, x.detach(), y, Draws(attack.seed, "judge", names), attack.eot if is_stochastic(model) else 1)


def smallest_eps(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str] | None = None, *, largest: float, rounds: int = 8
) -> SmallestEps:
    """The smallest eps at which `attack` breaks each sample, by bisection on a grid of 2^`rounds` cells.

    Every sample is attacked at `largest` and then `rounds` times at most: between the largest eps that failed and the smallest
    perturbation that misled the model, or at half the eps before as long as nothing has broken it. That half counts because an
    attack misled by its gradients may fail at a large eps and succeed at a small one. A sample counts as broken by a
    misclassified sample within the ball alone, at the size of that perturbation, which is at most the eps that was tried: the
    result therefore never rises with eps, whatever the attack does. Samples of equal eps are attacked together.

    Args:
        attack: any attack on images; its own eps does not matter. Leave settings out that it derives from eps (step_size).
        x: samples [N, ...] in [0, 1] with labels `y` [N] int64 and `ids` as in `Attack.run`.
        largest: where the search begins, in input units, above 0. For L0, which counts pixels, 2^`rounds` or a multiple of it.
        rounds: bisections, 1 to 20; an eps of 0 or one that failed lies at most largest / 2^rounds below the result.
    """
    if not (math.isfinite(largest) and largest > 0):
        raise ConfigError(f"Expected largest as an eps above 0 (in input units), got {largest}.")
    if type(rounds) is not int or not 1 <= rounds <= MOST_ROUNDS:
        raise ConfigError(f"Expected rounds as a whole number from 1 to {MOST_ROUNDS}, got {rounds!r}.")
    judged, cells = _judged(attack, model, x, y, ids), 2**rounds
    found = judged.x.clone()
    low = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # in cells: what failed
    high = torch.full_like(low, 2 * cells)  # what is known to be enough, or where nothing was yet, twice what failed last
    with frozen(model):
        right = judged.correct(judged.x, torch.arange(len(x), device=x.device))
        eps = torch.where(right, math.inf, 0.0).double()
        while (searched := right & (high - low > 1)).any():
            middle = (low + high) // 2
            for cell in middle[searched].unique().tolist():
                rows = (searched & (middle == cell)).nonzero().squeeze(1)
                radius = largest * cell / cells
                adversarial = judged.attacked(replace(attack, eps=radius), rows)
                length = _within(adversarial, judged.x[rows], radius, attack.norm)
                broken = ~judged.correct(adversarial, rows) & (length <= radius)
                better = broken & (length < eps[rows])
                found[rows] = torch.where(per_sample(better, found), adversarial, found[rows])
                failed = torch.isfinite(eps[rows]) & ~broken
                eps[rows] = torch.where(better, length, eps[rows])
                reached = (length * cells / largest).ceil().long().clamp_max(cell)
                low[rows] = torch.where(failed, cell, low[rows])
                high[rows] = torch.where(broken, reached, torch.where(failed, high[rows], cell))
    return SmallestEps(judged.draws.ids, eps.cpu().numpy(), found, attack.norm, float(largest), largest / cells)


def _within(adversarial: Tensor, x: Tensor, radius: float, norm: str) -> Tensor:
    """The size of each perturbation [B] (double); that of one on the edge of the ball, up to rounding, is `radius`."""
    length = size(adversarial.double() - x.double(), norm)
    rounding = torch.finfo(x.dtype).eps * float(size(torch.ones_like(x[:1]), norm)) + 1e-5 * radius
    return torch.where((length > radius) & (length <= radius + rounding), radius, length)


def steps_curve(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ids: Sequence[str] | None = None,
    steps: Sequence[int] = (1, 2, 5, 10, 20, 50, 100),
) -> BudgetCurve:
    """Robust accuracy against the steps of `attack`, each number of steps as a run of its own on every sample that is right
    without an attack. A step size that the attack derives from its steps differs from run to run. Samples as in `smallest_eps`.
    """
    return _budgets(attack, "steps", steps, _judged(attack, model, x, y, ids), survivors=False)


def restarts_curve(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ids: Sequence[str] | None = None,
    restarts: Sequence[int] = (1, 2, 5, 10),
) -> BudgetCurve:
    """Robust accuracy against the restarts of `attack`. What fewer restarts broke is not run again: `own` is the same as `worst`.
    It is also that of runs on all samples wherever a restart draws the same whatever their number and a broken sample leaves
    the search, as in every `RestartedAttack` of a deterministic model but APGD with targets. Samples as in `smallest_eps`."""
    return _budgets(attack, "restarts", restarts, _judged(attack, model, x, y, ids), survivors=True)


def _budgets(attack: Attack, setting: str, budgets: Sequence[int], judged: _Judged, survivors: bool) -> BudgetCurve:
    if setting not in {each.name for each in fields(attack)}:
        raise ConfigError(f"Expected an attack with a setting {setting}, got {attack.name}, which has none. Take pgd or apgd.")
    if not budgets or list(budgets) != sorted(set(budgets)):
        raise ConfigError(f"Expected {setting} as ascending whole numbers of at least 1, got {budgets!r}.")
    changes: list[dict[str, Any]] = [{setting: budget} for budget in budgets]
    runs = [replace(attack, **change) for change in changes]  # before the first of them takes its time: it checks the numbers
    with frozen(judged.model):
        clean = judged.correct(judged.x, torch.arange(len(judged.x), device=judged.x.device))
        robust = [clean]
        for run in runs:
            tried = robust[-1] if survivors else clean
            rows, left = tried.nonzero().squeeze(1), tried.clone()
            if len(rows):
                left[rows] = judged.correct(judged.attacked(run, rows), rows)
            robust.append(left)
    return budget_curve([0, *budgets], torch.stack(robust).cpu().numpy())
