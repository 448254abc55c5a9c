"""Progressive bit-flip search on quantised weights (BFA, Rakin ICCV 2019, arXiv 1903.12269), through surrogate gradients.

Flipping a bit changes a weight by d, so the loss by about d g with its gradient g. In each layer the bit with the largest d g is tried;
the one that costs the most loss stays flipped. For spikes, g depends on how a spike is differentiated, so that every iteration asks
several estimators and the loss decides among what they propose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trustsnn.attacks.integrity.bands import Band, by_count, doubling
from trustsnn.attacks.integrity.quantised import Bit, Quantised
from trustsnn.attacks.integrity.search import chance_of, drawn_places, mean_loss, weight_gradients, worst
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.neurons import STBP, GradientEstimator, Surrogate
from trustsnn.neurons.estimator import neurons_of
from trustsnn.rng import Draws, stream
from trustsnn.statistics import Figure
from trustsnn.training import accuracy

WIDER = 3.0


@dataclass(frozen=True)
class Flip:
    """A flipped bit, the weight before and after, and whose gradient proposed it: its place among the estimators of the search."""

    bit: Bit
    before: float
    after: float
    estimator: int


@dataclass(frozen=True)
class BitFlips:
    """What a search found. `accuracy` is that of the held-out samples after 0, 1, 2, ... flips, `unquantised` that of the model as it
    came, `chance` what always saying their most frequent class gets right. `stopped` is "chance", "limit" or "gradient": no
    estimator proposed a bit."""

    flips: tuple[Flip, ...]
    accuracy: tuple[Figure, ...]
    unquantised: Figure
    chance: float
    size: int
    stopped: str

    @property
    def to_chance(self) -> int | None:
        """Flips after which the accuracy is no better than guessing; None if all of them do not suffice."""
        return next((count for count, figure in enumerate(self.accuracy) if figure["value"] <= self.chance), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "to_chance": self.to_chance,
            "stopped": self.stopped,
            "chance": self.chance,
            "bits": self.size,
            "unquantised": dict(self.unquantised),
            "accuracy": [dict(figure) for figure in self.accuracy],
            "flips": [
                {**flip.bit._asdict(), "before": flip.before, "after": flip.after, "estimator": flip.estimator}
                for flip in self.flips
            ],
            "by_layer": dict(Counter(flip.bit.tensor for flip in self.flips)),
            "by_bit": {str(bit): count for bit, count in sorted(Counter(flip.bit.bit for flip in self.flips).items())},
        }


@dataclass(frozen=True, kw_only=True)
class BitFlipSearch:
    """The search as a callable: `search.run(model, known, held_out)`.

    Args:
        limit: flips at most.
        bits: of a weight.
        estimators: whose gradients propose bits; None stands for the model's own. By default that, and for a model with spikes
            also a surrogate `WIDER` times as wide.
        seed: of the draws of a stochastic model.
    """

    limit: int = 50
    bits: int = 8
    estimators: tuple[GradientEstimator | None, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1 or self.estimators == ():
            raise ConfigError(f"Expected at least 1 flip and 1 estimator, got limit {self.limit} and {self.estimators}.")

    def run(
        self, model: nn.Module, known: Dataset, held_out: Dataset, *,
        on_flip: Callable[[int, Figure], None] = lambda count, figure: None,
    ) -> BitFlips:  # fmt: skip
        """Flip bits by the gradient and the loss on `known` until the accuracy on `held_out`, which no choice depends on, is no
        better than guessing. `model` stays as it is.

        Raises:
            ConfigError: the quantised model is no better to begin with, or no gradient reaches its weights.
        """
        quantised, chance = Quantised(model, self.bits), chance_of(held_out)
        work = quantised.model
        estimators = self.chosen(work)
        x, y = (torch.from_numpy(values) for values in known.batch(np.arange(len(known))))
        draws = Draws(self.seed, "bit-flips", tuple(known.ids))
        figures, flips, stopped = [accuracy(work, held_out, seed=self.seed)], list[Flip](), "limit"
        if figures[0]["value"] <= chance:
            raise ConfigError(
                f"With {self.bits}-bit weights the model is right on {figures[0]['value']:.1%} of {len(held_out)} samples, no better "
                f"than guessing ({chance:.1%})."
            )
        flipped: set[Bit] = set()
        while len(flips) < self.limit:
            proposed = dict(self._proposed(quantised, estimators, flipped, x, y, draws))
            _, found = worst(([bit] for bit in proposed), quantised.flip, lambda: mean_loss(work, x, y, draws))
            if not found:
                stopped = "gradient"
                break
            bit, before = found[0], quantised.weight(found[0])
            quantised.flip(found)
            flipped.add(bit)
            flips.append(Flip(bit, before, quantised.weight(bit), proposed[bit]))
            figures.append(accuracy(work, held_out, seed=self.seed))
            on_flip(len(flips), figures[-1])
            if figures[-1]["value"] <= chance:
                stopped = "chance"
                break
        return BitFlips(tuple(flips), tuple(figures), accuracy(model, held_out, seed=self.seed), chance, quantised.size, stopped)

    def chosen(self, model: nn.Module) -> tuple[GradientEstimator | None, ...]:
        """The estimators that are asked."""
        return self.estimators if self.estimators is not None else default_estimators(model)

    def _proposed(
        self, quantised: Quantised, estimators: Sequence[GradientEstimator | None], flipped: set[Bit], x: Tensor, y: Tensor,
        draws: Draws,
    ) -> Iterator[tuple[Bit, int]]:  # fmt: skip
        """The best bit of each layer by each estimator that was not flipped yet and whose flip is to raise the loss; the first estimator
        to propose it comes last."""
        for place, estimator in reversed(list(enumerate(estimators))):
            with estimator.applied(quantised.model) if estimator is not None else nullcontext():
                gradients = weight_gradients(quantised.model, quantised.weights, x, y, draws)
            for name in quantised.weights:
                gain = quantised.changes(name) * gradients[name].flatten()
                for bit in flipped:
                    if bit.tensor == name:
                        gain[bit.bit, bit.place] = -torch.inf
                best = int(gain.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax())
                if gain.flatten()[best] > 0:
                    yield Bit(name, best % gain.shape[1], best // gain.shape[1]), place


def default_estimators(model: nn.Module) -> tuple[GradientEstimator | None, ...]:
    """The model's own, and where there are spikes to differentiate a wider surrogate."""
    spiking = [neuron for neuron in neurons_of(model) if neuron.binary]
    if not spiking:
        return (None,)
    own = getattr(spiking[0].estimator, "surrogate", Surrogate())
    return (None, STBP(Surrogate(own.name, WIDER * own.width)))


def random_flips(model: nn.Module, data: Dataset, most: int, *, bits: int = 8, seeds: int = 5) -> tuple[Band, ...]:
    """The accuracy on `data` after 0, 1, 2, 4, ... and `most` flips of bits that are drawn at random, for each seed."""
    columns = []
    for seed in range(seeds):
        quantised, flipped, column = Quantised(model, bits), 0, list[Figure]()
        sizes = {name: bits * len(codes) for name, codes in quantised.codes.items()}
        counts = doubling(min(most, quantised.size))
        places = drawn_places(sizes, counts[-1], stream(seed, "bit-flips/random"))
        drawn = [Bit(name, *divmod(place, bits)) for name, place in places]
        for count in counts:
            quantised.flip(drawn[flipped:count])
            flipped = count
            column.append(accuracy(quantised.model, data, seed=seed))
        columns.append(column)
    return by_count(counts, columns)
