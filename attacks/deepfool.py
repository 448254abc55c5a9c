"""DeepFool: the nearest decision boundary of the linearised model, again and again (Moosavi-Dezfooli 2016, arXiv 1511.04599)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.losses import difference
from trustsnn.attacks.norms import per_sample, project, size, unit
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Steps onto the nearest of the linearised boundaries f_k = z_k - z_y = 0 until the sample is misclassified; then the
    perturbation is projected to the ball. It looks for the smallest perturbation, not for the best of a given size.

    A step is 1.0001 times what the linear model asks for at least, so that a sample on a boundary (tied logits) moves on. It has
    a loss of its own. A sample that is misclassified without a perturbation stays as it is.

    Args:
        steps: most linearisations.
        candidates: how many other classes, those of the highest clean logits, are linearised: one gradient each.
        overshoot: the perturbation is taken so much longer, to cross the boundary.
    """

    steps: int = 50
    candidates: int = 9
    overshoot: float = 0.02

    name: ClassVar[str] = "deepfool"
    own_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.overshoot >= 0:
            raise ConfigError(f"Expected an overshoot of at least 0, got {self.overshoot}.")
        if self.targeted:
            raise ConfigError("DeepFool moves to the nearest other class. Leave out targeted=True, or use apgd.")

    def _raised(self, logits: Tensor, goal: Tensor) -> Tensor:
        return difference(logits, goal)  # its derivative to the logits is +-1, so that the gradient has its true length

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        pairs = torch.stack([y, y], 1)
        logits, _ = self.losses(model, x, pairs, draws.child("start"))
        others = logits.scatter(1, y[:, None], -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :-1]
        others = others[:, : self.candidates]
        zero = torch.ones(len(x), dtype=torch.bool, device=x.device)
        bad = torch.zeros_like(zero)
        found, total = x.clone(), torch.zeros_like(x)
        rows = (logits.argmax(1) == y).nonzero().squeeze(1)
        for step in range(self.steps):
            if len(rows) == 0:
                break
            here = draws.select(rows.tolist()).child("step", step)
            move, flat, broken = self._nearest(model, found[rows], y[rows], others[rows], here)
            if step == 0:
                zero[rows], bad[rows] = flat, broken
            total[rows] += move
            found[rows] = (x[rows] + (1 + self.overshoot) * total[rows]).clamp(0, 1)
            logits, _ = self.losses(model, found[rows], pairs[rows], here.child("rank"))
            rows = rows[(logits.argmax(1) == y[rows]) & ~flat]
        return AttackResult(project(found, x, self.eps, self.norm), zero, bad)

    def _nearest(self, model: nn.Module, at: Tensor, y: Tensor, others: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """The step to the nearest boundary, whether no class has a gradient, and whether one is not finite."""
        repeats = len(self._transformations(model, draws))
        nearest = torch.full((len(at),), torch.inf, dtype=at.dtype, device=at.device)
        move = torch.zeros_like(at)
        bad = torch.zeros(len(at), dtype=torch.bool, device=at.device)
        for other in others.unbind(1):
            logits, gap, direction = self.gradient(model, at, torch.stack([y, other], 1), draws)
            bad |= ~torch.isfinite(direction).flatten(1).all(1)
            gradient = direction.nan_to_num(0.0, 0.0, 0.0) / repeats
            slope = size(gradient, "l1" if self.norm == "linf" else "l2")
            reach = gap.abs().to(at) + 1e-4 * (logits.amax(1) - logits.amin(1)).to(at)
            distance = torch.where(slope > 0, reach / slope.clamp_min(1e-30), torch.inf)
            towards = gradient.sign() if self.norm == "linf" else unit(gradient, "l2")
            closer = distance < nearest
            move = torch.where(per_sample(closer, at), per_sample(distance.nan_to_num(0, 0, 0), at) * towards, move)
            nearest = torch.where(closer, distance, nearest)
        return move, nearest == torch.inf, bad
