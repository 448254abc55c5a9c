"""Weights on a crossbar: each one is the difference of two conductances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustsnn.hardware.twin import Layer, Twin

Conductances = NDArray[np.float64]


class Pairs(NamedTuple):
    """A layer's weights as w = unit * (G+ - G-): the conductances [2, *weight.shape] in uS, and the weight of 1 uS."""

    conductances: Conductances
    unit: float


def to_pairs(weight: Tensor, low: float, high: float) -> Pairs:
    """Pairs of conductances in [low, high] uS, the layer's largest |w| being one device at `high` and the other at `low`.

    Linear: |w| raises G+ of a positive weight and G- of a negative one above `low`, where the other device stays.
    """
    values = weight.double().numpy(force=True)
    unit = float(np.abs(values).max(initial=0.0)) / (high - low)
    raised = np.stack([values.clip(min=0), (-values).clip(min=0)])
    return Pairs(low + (raised / unit if unit > 0 else raised), unit)


def to_weights(pairs: Pairs, like: Tensor) -> Tensor:
    """The weights that the pairs stand for, of the dtype and on the device of `like`."""
    plus, minus = pairs.conductances
    return torch.from_numpy(pairs.unit * (plus - minus)).to(like)


@dataclass(frozen=True, kw_only=True)
class Crossbar(Twin):
    """A twin whose weights are pairs of conductances. A subclass says in which window, and what becomes of them."""

    @property
    def window(self) -> tuple[float, float]:
        """The lowest and the highest conductance that is programmed, uS."""
        raise NotImplementedError

    def conductances(self, target: Conductances, layer: Layer) -> Conductances:
        """What is read of devices that were meant to be `target`, both [2, *weight.shape] in uS."""
        raise NotImplementedError

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """The weights that are read back."""
        pairs = to_pairs(weight, *self.window)
        return to_weights(pairs._replace(conductances=self.conductances(pairs.conductances, layer)), weight)
