"""A universal patch: one small block of events that fools the model on whatever it is pasted into."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.events.base import at_least, check_events, check_whole, event_draws
from trustsnn.attacks.losses import cross_entropy
from trustsnn.blocks import frozen, input_gradient, is_stochastic, predict
from trustsnn.errors import ConfigError, DataError
from trustsnn.neurons import GradientEstimator


@dataclass(frozen=True, eq=False)
class EventPatch:
    """A block of events [T, 2, h, w] and where its upper left corner goes. Calling it pastes it over samples.

    success: the share of the samples that it was made on, those that the model got right, that it fools.
    """

    events: Tensor
    row: int
    column: int
    success: float

    def __call__(self, x: Tensor) -> Tensor:
        """Samples `x` [B, T, 2, H, W] with the patch in place of their own events there."""
        height, width = self.row + self.events.shape[2], self.column + self.events.shape[3]
        if x.dim() != 5 or x.shape[1:3] != self.events.shape[:2] or height > x.shape[3] or width > x.shape[4]:
            raise DataError(
                f"Expected events [B, {len(self.events)}, 2, H, W] with H of at least {height} and W of at least {width}, got "
                f"{list(x.shape)}. A patch fits the number of steps that it was made for."
            )
        pasted = x.clone()
        pasted[..., self.row : height, self.column : width] = self.events.to(x)
        return pasted


@dataclass(frozen=True, kw_only=True)
class UniversalPatch:
    """One patch for a whole set (after Brown et al. 2017, arXiv 1712.09665, on event frames).

    Scores of the patch's places climb the mean gradient of the cross-entropy over the set, with momentum; the patch is full
    (1, or max_count) where a score is positive and empty elsewhere, and gradients pass through that step as they are. The
    best patch of all iterations is returned. Neither the order of the samples nor batch sizes change it.

    Args:
        height, width: of the patch, in pixels; it covers every step and both polarities.
        row, column: its upper left corner.
        iterations: gradients over the whole set.
        momentum: of the scores' velocity, in [0, 1).
    """

    height: int
    width: int
    row: int = 0
    column: int = 0
    iterations: int = 40
    momentum: float = 0.9
    estimator: GradientEstimator | None = None
    seed: int = 0

    name: ClassVar[str] = "universal-patch"

    def __post_init__(self) -> None:
        check_whole(self)
        at_least(1, height=self.height, width=self.width, iterations=self.iterations)
        at_least(0, row=self.row, column=self.column)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"Expected momentum in [0, 1), got {self.momentum}.")

    def describe(self) -> dict[str, Any]:
        """The threat as plain values, for the key of a cell."""
        return {
            "attack": self.name,
            "size": [self.height, self.width],
            "place": [self.row, self.column],
            "iterations": self.iterations,
            "momentum": self.momentum,
        }

    def fit(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str] | None = None) -> EventPatch:
        """The patch for a set of samples `x` [N, T, 2, H, W] with labels `y` [N]."""
        most = check_events(model, x, y)
        if is_stochastic(model):
            raise ConfigError("A universal patch is fitted to models that draw nothing, got a stochastic one.")
        if self.row + self.height > x.shape[3] or self.column + self.width > x.shape[4]:
            raise ConfigError(
                f"Expected a patch inside the frames of {x.shape[3]} x {x.shape[4]}, got rows {self.row} to "
                f"{self.row + self.height} and columns {self.column} to {self.column + self.width}."
            )
        draws = event_draws(self.seed, self.name, x, ids)
        order = sorted(range(len(x)), key=lambda i: draws.ids[i])
        x, y = x.detach()[order], y[order]
        estimator = self.estimator.applied(model) if self.estimator is not None else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), frozen(model), estimator:
            right = predict(model, x).argmax(1) == y
            return self._climb(model, x[right].clone(), y[right].clone(), most, x.new_zeros(x.shape[1:]))

    def _climb(self, model: nn.Module, x: Tensor, y: Tensor, most: int, like: Tensor) -> EventPatch:
        rows, columns = slice(self.row, self.row + self.height), slice(self.column, self.column + self.width)
        velocity = torch.zeros_like(like[..., rows, columns], dtype=torch.float64)
        scores = velocity.clone()
        best = EventPatch(torch.zeros_like(like[..., rows, columns]), self.row, self.column, 0.0)
        if len(x) == 0:
            return best
        for iteration in range(self.iterations + 1):
            events = torch.where(scores > 0, float(most), 0.0).to(x.dtype)
            patch = EventPatch(events, self.row, self.column, 0.0)
            answer = input_gradient(model, patch(x), y, cross_entropy)
            success = int((answer.logits.argmax(1) != y).sum()) / len(x)
            if success > best.success or iteration == 0:
                best = EventPatch(events, self.row, self.column, success)
            here = answer.direction[..., rows, columns].double().nan_to_num(0.0, 0.0, 0.0)
            mean = (here * answer.scale.double().view(-1, 1, 1, 1, 1)).mean(0)
            largest = mean.abs().amax()
            if not largest > 0:
                break
            velocity = self.momentum * velocity + mean / largest
            scores = scores + velocity
        return best
