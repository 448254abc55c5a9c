"""Square: random search by square patches, without any gradient (Andriushchenko 2020, arXiv 1912.00049)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import AttackResult
from trustsnn.attacks.norms import per_sample, project, size
from trustsnn.attacks.restarts import Best, Outcome, Problem, RestartedAttack
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of the patch's area, in queries of 10,000
_BLOCK = 100  # queries whose draws are made at once


def area_share(query: int, queries: int, share: float) -> float:
    """The share of the image that a patch covers at a query: `share`, halved on the paper's schedule."""
    now = query / queries * 10_000
    halvings = sum(now > after for after in _HALVINGS)
    return share * math.ldexp(1.0, -halvings)


@dataclass(frozen=True, kw_only=True)
class Square(RestartedAttack):
    """Changes a random square patch at each query and keeps the change where the loss rises. It sees logits alone, so a
    white-box attack that it beats was misled by its gradients.

    L-inf: starts from vertical stripes of +-eps; a patch is +-eps, one sign a channel. L2: starts from a grid of bumps; a patch
    moves the mass of one window to another. Each sample draws its own patches. The result says how many queries each took.

    Args:
        queries: forward passes of each run, 5,000 in the paper (times `eot` for a stochastic model).
        patch: share of the image that the first patches cover, 0.8 in AutoAttack.
        loss: "margin-ties" by default: on tied spike counts the plain margin is flat and the search stands still.
    """

    queries: int = 5000
    patch: float = 0.8
    loss: str = "margin-ties"

    name: ClassVar[str] = "square"
    route: ClassVar[str] = "black-box"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.patch <= 1:
            raise ConfigError(f"Expected patch as a share of the image in (0, 1], got {self.patch}.")

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        if x.dim() != 4:
            raise ConfigError(f"Square needs images [B, C, H, W], got samples of shape {list(x.shape[1:])}.")
        return super()._run(model, x, y, draws)

    def _search(self, model: nn.Module, problem: Problem) -> Outcome:
        x, y, goal, draws, stops = problem
        start, propose, numbers = (_stripes, _patch_linf, 2) if self.norm == "linf" else (_bumps, _patch_l2, 5)
        best = Best(project(start(x, self.eps, draws.child("start").uniform(start_shape(x, self.norm))), x, self.eps, self.norm))
        repeats = len(self._transformations(model, draws))
        queries = torch.zeros_like(y)
        rows, uniform = torch.arange(len(x), device=x.device), torch.empty(0)
        for query in range(self.queries):
            here = draws.select(rows.tolist())
            if query == 0:
                trial = best.points
            else:
                place = (query - 1) % _BLOCK
                if place == 0:
                    uniform = draws.child("patches", query).uniform((_BLOCK, numbers + x.shape[1])).to(x.device)
                share = area_share(query - 1, self.queries, self.patch)
                moved = propose(best.points[rows], x[rows], self.eps, uniform[rows, place], share)
                trial = project(moved, x[rows], self.eps, self.norm)
            logits, loss = self.losses(model, trial, goal[rows], here.child("query", query))
            queries[rows] += repeats
            fooled = logits.argmax(1) != y[rows] if stops else torch.zeros_like(loss, dtype=torch.bool)
            loss = loss.masked_fill(fooled, torch.inf)
            better = loss > best.score[rows]
            best.take(rows[better], trial[better], loss[better])
            rows = rows[~fooled]
            if len(rows) == 0:
                break
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return Outcome(best, none, none, queries)


def start_shape(x: Tensor, norm: str) -> tuple[int, ...]:
    """How many draws of a sample the start takes: a sign for each column or bump of a channel."""
    channels, height, width = x.shape[1:]
    return (channels, 1, width) if norm == "linf" else (channels, height, width)


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)


def _stripes(x: Tensor, eps: float, uniform: Tensor) -> Tensor:
    return x + eps * _signs(uniform).to(x)


def _corner(uniform: Tensor, room: int) -> Tensor:
    """A place in 0 .. room for each sample."""
    return (uniform * (room + 1)).long().clamp_max(room)


def _patch_linf(found: Tensor, x: Tensor, eps: float, uniform: Tensor, share: float) -> Tensor:
    height, width = x.shape[2:]
    side = min(max(round(math.sqrt(share * height * width)), 1), max(min(height, width) - 1, 1))
    inside = _window(x, _corner(uniform[:, 0], height - side), _corner(uniform[:, 1], width - side), side)
    return torch.where(inside, x + eps * _signs(uniform[:, 2:, None, None]).to(x), found)


def _window(x: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """Whether each pixel is in its sample's window, [B, 1, H, W]."""
    row = torch.arange(x.shape[2], device=x.device) - top[:, None]
    column = torch.arange(x.shape[3], device=x.device) - left[:, None]
    return (((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None, :])[:, None]


@cache
def _bump(side: int) -> Tensor:
    """The paper's tile [side, side] (eq. 2): a positive and a negative half, each falling off from its centre; L2 norm 1."""
    upper = side // 2
    halves = [sign * _hill(rows, side) for sign, rows in ((1, upper), (-1, side - upper)) if rows > 0]
    tile = torch.cat(halves)
    return tile / float(torch.linalg.vector_norm(tile))


def _hill(rows: int, columns: int) -> Tensor:
    centre = (rows // 2, columns // 2)
    rings = max(centre) + 1
    distance = torch.maximum(
        (torch.arange(rows) - centre[0]).abs()[:, None].expand(rows, columns),
        (torch.arange(columns) - centre[1]).abs()[None, :].expand(rows, columns),
    )
    heights = torch.tensor([sum(1 / (k + 1) ** 2 for k in range(d, rings)) for d in range(rings)])
    hill = heights[distance]
    return hill / float(torch.linalg.vector_norm(hill))


def _bumps(x: Tensor, eps: float, uniform: Tensor) -> Tensor:
    height, width = x.shape[2:]
    side = max(min(height, width) // 5, 1)
    delta = torch.zeros_like(x)
    for top in range((height % side) // 2, height - side + 1, side):
        for left in range((width % side) // 2, width - side + 1, side):
            signs = _signs(uniform[:, :, top, left]).to(x)
            delta[:, :, top : top + side, left : left + side] = signs[:, :, None, None] * _bump(side).to(x)
    return x + eps * delta / per_sample(size(delta, "l2"), x)


def _patch_l2(found: Tensor, x: Tensor, eps: float, uniform: Tensor, share: float) -> Tensor:
    """Algorithm 3 of the paper: the first window gets a new bump, with the mass of both windows and what eps leaves unused."""
    height, width = x.shape[2:]
    side = max(round(math.sqrt(share * height * width)), 3)
    side = min(side + (side + 1) % 2, height, width)
    delta = found - x
    top, other_top = (_corner(uniform[:, i], height - side) for i in (0, 1))
    left, other_left = (_corner(uniform[:, i], width - side) for i in (2, 3))
    first, second = _window(x, top, left, side), _window(x, other_top, other_left, side)
    length = per_sample(size(delta, "l2"), x)
    mass = torch.linalg.vector_norm(delta * (first | second), dim=(2, 3), keepdim=True)
    where = _indices(x, top, left, side)
    window = delta[where]
    bump = torch.where(per_sample(uniform[:, 4] < 0.5, x), _bump(side).to(x), _bump(side).T.to(x))
    shape = bump * _signs(uniform[:, 5:, None, None]).to(x)
    shape = shape + window / torch.linalg.vector_norm(window, dim=(2, 3), keepdim=True).clamp_min(1e-12)
    shape = shape / torch.linalg.vector_norm(shape, dim=(2, 3), keepdim=True).clamp_min(1e-12)
    unused = (eps**2 - length**2).clamp_min(0) / x.shape[1]
    delta = delta * ~second
    delta[where] = shape * (unused + mass**2).sqrt()
    return x + eps * delta / per_sample(size(delta, "l2").clamp_min(1e-12), x)


def _indices(x: Tensor, top: Tensor, left: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices of each sample's window, which give and take [B, C, side, side]."""
    steps = torch.arange(side, device=x.device)
    sample = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return sample, channel, (top[:, None] + steps)[:, None, :, None], (left[:, None] + steps)[:, None, None, :]
