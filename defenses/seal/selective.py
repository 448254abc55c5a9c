"""Selective sealing: the few sign bits of weights without which a model is at chance (after SNNGX, Wong 2024, arXiv 2407.15152).

SNNGX searches sign bits with a genetic algorithm. Here a progressive search does (after the bit-flip attack, Rakin 2019, arXiv
1903.12269): a flipped sign changes a weight w by -2 w, so the loss by about -2 w g, with g its surrogate gradient. The best of
each layer are tried, and the layer that costs most keeps them. Sign bits leave the size of every weight as it was: unlike a
flipped exponent they do not stand out in the file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trustsnn.attacks.integrity.search import chance_of, drawn_places, mean_loss, weight_gradients, weight_matrices, worst
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws, stream
from trustsnn.statistics import Figure
from trustsnn.tensorfile import read_header, size_of
from trustsnn.training import accuracy


class Sign(NamedTuple):
    """The sign bit of one weight: its tensor and its place in it, flattened."""

    tensor: str
    place: int


@dataclass(frozen=True)
class Found:
    """Sign bits in the order in which the search found them, the accuracy that they leave on the samples of the search, and that of
    always saying the most frequent class."""

    signs: tuple[Sign, ...]
    accuracy: Figure
    chance: float

    @property
    def collapsed(self) -> bool:
        """Whether the model without these bits is no better than guessing, on the samples of the search."""
        return self.accuracy["value"] <= self.chance


def search(
    model: nn.Module,
    data: Dataset,
    limit: int,
    *,
    samples: int = 512,
    seed: int = 0,
    on_round: Callable[[int, Figure], None] = lambda bits, left: None,
) -> Found:
    """Search up to `limit` sign bits whose flipping brings the accuracy on `samples` samples of `data` down to the share of the most
    frequent class. One bit is added at a time at first, later an eighth of those there are. `model` stays as it is.

    Raises:
        ConfigError: the model is no better than that to begin with, or has no weight matrices that a gradient reaches.
    """
    if limit < 1:
        raise ConfigError(f"Expected a limit of at least 1 bit, got {limit}.")
    model, chosen = copy.deepcopy(model).eval(), data.take(min(samples, len(data)), seed)
    weights = weight_matrices(model)
    limit = min(limit, sum(each.numel() for each in weights.values()))
    x, y = (torch.from_numpy(values) for values in chosen.batch(np.arange(len(chosen))))
    draws = Draws(seed, "seal", tuple(chosen.ids))
    chance = chance_of(chosen)
    signs: list[Sign] = []
    left = accuracy(model, chosen, seed=seed)
    if left["value"] <= chance:
        raise ConfigError(
            f"The model is right on {left['value']:.1%} of {len(chosen)} samples, no better than guessing ({chance:.1%})."
        )
    while left["value"] > chance and len(signs) < limit:
        count = min(max(1, len(signs) // 8), limit - len(signs))
        gradients, groups = weight_gradients(model, weights, x, y, draws), []
        for name, weight in weights.items():
            gain = (-2 * weight.detach() * gradients[name]).flatten()
            gain[[sign.place for sign in signs if sign.tensor == name]] = -torch.inf
            places = gain.topk(min(count, gain.numel())).indices
            groups.append([Sign(name, int(place)) for place in places if gain[place] > -torch.inf])
        _, best = worst(groups, lambda group: flip(model, group), lambda: mean_loss(model, x, y, draws))
        if not best:
            break  # no loss is a number any more
        flip(model, best)
        signs += best
        left = accuracy(model, chosen, seed=seed)
        on_round(len(signs), left)
    return Found(tuple(signs), left, chance)


def flip(model: nn.Module, signs: Sequence[Sign]) -> None:
    """Flip sign bits of `model` in place. Twice the same gives it back."""
    state = model.state_dict()
    with torch.no_grad():
        for name in dict.fromkeys(sign.tensor for sign in signs):
            places = torch.tensor([sign.place for sign in signs if sign.tensor == name])
            flat = state[name].view(-1)
            flat[places] = -flat[places]


def curve(model: nn.Module, data: Dataset, signs: Sequence[Sign], *, seed: int = 0) -> dict[int, Figure]:
    """The accuracy on `data` with the first 0, 1, 2, 4, ... and all of the bits flipped, by their number."""
    figures, flipped, work = {}, 0, copy.deepcopy(model)
    for count in sorted({0, len(signs), *(1 << power for power in range(len(signs).bit_length()))}):
        flip(work, signs[flipped:count])
        flipped = count
        figures[count] = accuracy(work, data, seed=seed)
    return figures


def random_signs(model: nn.Module, count: int, seed: int = 0) -> tuple[Sign, ...]:
    """`count` different sign bits of the same tensors at random, against which a search is to be held."""
    sizes = {name: each.numel() for name, each in weight_matrices(model).items()}
    return tuple(Sign(name, place) for name, place in drawn_places(sizes, count, stream(seed, "seal/random")))


def places(weights: Path, signs: Sequence[Sign]) -> NDArray[np.int64]:
    """Where the sign bits lie in a safetensors file, ascending, as `trustsnn.defenses.seal.seal` takes them."""
    with open(weights, "rb") as file:
        layout, start = read_header(file)
    found, offset = [], len(start)
    for name, dtype, shape in layout:
        indices = np.array([sign.place for sign in signs if sign.tensor == name], dtype=np.int64)
        found.append(8 * (offset + (indices + 1) * size_of(dtype, ())) - 1)
        offset += size_of(dtype, shape)
    return np.sort(np.concatenate(found))


def bits_of(model: nn.Module) -> int:
    """All bits of a model's state."""
    return sum(8 * each.numel() * each.element_size() for each in model.state_dict().values())
