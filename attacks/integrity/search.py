"""What searches for harmful changes of weights share: the weights, their gradient, the loss, and trying changes one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.blocks import BLOCK, frozen, is_stochastic, predict
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.neurons.estimator import follow
from trustsnn.rng import Draws

T = TypeVar("T")


def chance_of(data: Dataset) -> float:
    """What always saying the most frequent class gets right."""
    return float(np.bincount(data.labels).max()) / len(data)


def weight_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers by their names in the model's state.

    Raises:
        ConfigError: there are none.
    """
    found = {name: each for name, each in model.named_parameters() if each.dim() > 1 and each.is_floating_point()}
    if not found:
        raise ConfigError(f"{type(model).__name__} has no weight matrix whose bits could be flipped.")
    return found


def weight_gradients(
    model: nn.Module, weights: Mapping[str, nn.Parameter], x: Tensor, y: Tensor, draws: Draws
) -> dict[str, Tensor]:
    """The gradient of the cross-entropy with respect to each weight, summed over the samples block by block.

    Raises:
        ConfigError: no gradient reaches the weights.
    """
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for start in range(0, len(x), BLOCK):
        rows = range(start, min(start + BLOCK, len(x)))
        logits = (
            model(x[start : rows.stop], generator=draws.select(rows)) if is_stochastic(model) else model(x[start : rows.stop])
        )
        loss = cross_entropy(logits, y[start : rows.stop], reduction="sum")
        if not loss.requires_grad:
            raise ConfigError(f"{type(model).__name__} has no gradient with respect to its weights, which the search follows.")
        follow(model, draws.ids[start : rows.stop])
        for name, found in zip(weights, torch.autograd.grad(loss, list(weights.values()), allow_unused=True), strict=True):
            if found is not None:
                total[name] += found
    return total


def mean_loss(model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> float:
    """The mean cross-entropy, without a gradient."""
    with frozen(model):
        return float(cross_entropy(predict(model, x, draws).double(), y))


def worst(changes: Iterable[list[T]], flip: Callable[[list[T]], None], loss: Callable[[], float]) -> tuple[float, list[T]]:
    """Of groups of changes the one under which the loss is largest, with that loss; empty if no loss is a number.

    `flip` makes a group's changes, and takes them back when it is called again.
    """
    best: tuple[float, list[T]] = (-torch.inf, [])
    for group in changes:
        flip(group)
        best = max(best, (loss(), group))
        flip(group)
    return best


def drawn_places(sizes: Mapping[str, int], count: int, generator: np.random.Generator) -> list[tuple[str, int]]:
    """`count` different places among those of all `sizes` at random: name and place in it."""
    ends = np.cumsum(list(sizes.values()))
    drawn = generator.choice(int(ends[-1]), count, replace=False)
    names, rows = list(sizes), np.searchsorted(ends, drawn, side="right")
    return [(names[row], int(place - (ends[row] - sizes[names[row]]))) for row, place in zip(rows, drawn, strict=True)]
