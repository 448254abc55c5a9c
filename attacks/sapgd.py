"""SA-PGD: gradient ascent with momentum and a step size of its own for each pixel, made for the noisy gradients of spiking
networks (METHODS of the ASSG attack; momentum and second moment as in Adam, without bias correction)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.apgd import checkpoints, edge_start
from trustsnn.attacks.norms import per_sample, project, size
from trustsnn.attacks.restarts import Best, Outcome, Problem, RestartedAttack


@dataclass(frozen=True, kw_only=True)
class SAPGD(RestartedAttack):
    """From a random point on the edge of the L-inf ball, `steps` times: m = 0.5 m + g / mean|g|,
    v = 0.8 v + g^2 / mean(g^2), x += clip(eta m / (sqrt(v) + 1e-12), -eta, eta), projected to the ball and to [0, 1].

    The step eta starts at eps and halves at APGD's checkpoints. Means are over a sample. Misclassified iterates are kept.
    """

    steps: int = 100

    name: ClassVar[str] = "sapgd"
    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def _search(self, model: nn.Module, problem: Problem) -> Outcome:
        x, y, goal, draws, stops = problem
        best, rows = Best(x), torch.arange(len(x), device=x.device)
        zero = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        bad = torch.zeros_like(zero)
        at = edge_start(x, self.eps, self.norm, draws)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        eta, points = self.eps, checkpoints(self.steps)
        for step in range(self.steps):
            logits, _, gradient = self.gradient(model, at, goal[rows], draws.select(rows.tolist()).child("step", step))
            if step == 0:
                zero, bad = (gradient == 0).flatten(1).all(1), ~torch.isfinite(gradient).flatten(1).all(1)
            if stops:
                fooled = logits.argmax(1) != y[rows]
                best.take(rows[fooled], at[fooled])
                rows, at, gradient, first, second = (each[~fooled] for each in (rows, at, gradient, first, second))
            if len(rows) == 0:
                return Outcome(best, zero, bad)
            absolute, square = _relative(gradient.nan_to_num(0.0, 0.0, 0.0))
            first, second = 0.5 * first + absolute, 0.8 * second + square
            move = (eta * first / (second.sqrt() + 1e-12)).clamp(-eta, eta)
            at = project(at + move, x[rows], self.eps, self.norm)
            if step + 1 in points:
                eta /= 2
        logits, loss = self.losses(model, at, goal[rows], draws.select(rows.tolist()).child("rank"))
        if stops:
            loss = loss.masked_fill(logits.argmax(1) != y[rows], torch.inf)
        best.take(rows, at, loss)
        return Outcome(best, zero, bad)


def _relative(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """g / mean|g| and g^2 / mean(g^2) of each sample, zeros for a zero gradient."""
    largest = gradient.flatten(1).abs().amax(1)  # squares of tiny gradients would underflow
    scaled = gradient / per_sample(torch.where(largest > 0, largest, 1.0), gradient)
    count = gradient[0].numel()
    mean = size(scaled, "l1") / count
    mean_square = size(scaled, "l2").square() / count
    return scaled / per_sample(mean.clamp_min(1e-30), scaled), scaled.square() / per_sample(mean_square.clamp_min(1e-30), scaled)
