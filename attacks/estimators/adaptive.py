"""Surrogates that take their width from the membranes, inside the exact recursion through time of STBP."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from trustsnn.attacks.estimators.settings import check_between
from trustsnn.errors import ModelContractError
from trustsnn.neurons import GradientEstimator, LayerRecord
from trustsnn.neurons.estimator import Derivative, SpikeDerivative, SpikingLayer, spiking_layers


def membrane_spread(membrane: Tensor) -> Tensor:
    """The standard deviation (unbiased) of membranes u over space and the time so far, per sample and channel; 1 where it is 0.

    [T, B, C, ...space] gives [T, B, C, 1, ...]. A layer without space, [T, B, N], is one channel with N places.
    """
    space = membrane.dim() - 3
    values = membrane.flatten(3) if space else membrane.unsqueeze(2)
    origin = values[0, :, :, :1]  # values are counted from one of them, so that a constant membrane spreads by exactly 0
    total = squares = values.new_zeros((), dtype=torch.float64)
    spreads = []
    for t, at_step in enumerate(values):
        moved = (at_step - origin).to(torch.float64, memory_format=torch.contiguous_format)
        total, squares = total + moved.sum(-1), squares + moved.square().sum(-1)
        count = (t + 1) * values.shape[-1]
        spreads.append(((squares - total.square() / count) / max(1, count - 1)).clamp_min(0).sqrt().to(membrane.dtype))
    spread = torch.stack(spreads)
    return torch.where(spread > 0, spread, 1.0).view(*spread.shape, *[1] * space)


@dataclass(frozen=True)
class PDSG(SpikeDerivative):
    """Potential-dependent surrogate gradient (Lun, CVPR 2025): STBP with the normal density of u - V with mean sigma / 2 and
    standard deviation sigma, the spread of the layer's membranes so far (see `membrane_spread`).

    The paper takes sigma over the batch too. Here it is each sample's own, so that a gradient does not depend on which other
    samples are in the batch; a layer without space takes it over its neurons.
    """

    def describe(self) -> dict[str, object]:
        return {"name": "pdsg"}

    def derivative(self, record: LayerRecord) -> Derivative:
        spread = membrane_spread(record.membrane)
        if record.membrane.dim() == 3:
            spread = spread.view(*spread.shape[:2], 1)

        def density(distance: Tensor, t: int, rows: slice) -> Tensor:
            sigma = spread[t, rows]
            return torch.exp(((distance - sigma / 2) / sigma).square_().mul_(-0.5)).div_(sigma * math.sqrt(2 * math.pi))

        return density


@dataclass(frozen=True)
class ASSG(SpikeDerivative):
    """Adaptive sharpness surrogate gradient (Wang 2025, arXiv 2512.22522): STBP with an atan surrogate whose sharpness follows
    the distance d = u - V of each neuron at each step over the iterations of an attack.

        M <- decay M + (1 - decay) |d|            from M = 1
        D <- decay D + (1 - decay) ||d| - M|      from D = 0
        alpha = (2 tan(pi area) / pi) / (M + spread D + 1e-4)
        SG(d) = (alpha / 2) / (1 + (pi alpha d / 2)^2)

    `area`, at most .49, is the share of the surrogate between the threshold and the distance M + spread D.

    M and D belong to a sample (8 bytes per neuron, step and sample, and up to as much in reserve), begin afresh with each
    `applied(model)` and are updated in each of its backward passes, which `trustsnn.blocks.input_gradient` precedes by the samples' ids.
    """

    area: float = 0.425
    decay: float = 0.9
    spread: float = 1.5

    def __post_init__(self) -> None:
        check_between("area", self.area, 0.01, 0.49)
        check_between("decay", self.decay, 0, 1)
        check_between("spread", self.spread, 0, 100)

    def describe(self) -> dict[str, object]:
        return {"name": "assg", **asdict(self)}

    @contextmanager
    def prepared(self, model: nn.Module) -> Iterator[Mapping[SpikingLayer, GradientEstimator]]:
        yield {layer: _Adapting(self) for layer in spiking_layers(model)}

    def derivative(self, record: LayerRecord) -> Derivative:
        raise ModelContractError("ASSG keeps statistics for each layer: use it inside `with ASSG().applied(model):`.")


class _Adapting(SpikeDerivative):
    """ASSG for one layer: its statistics by sample."""

    def __init__(self, settings: ASSG) -> None:
        self.settings = settings
        self.samples: Sequence[Hashable | None] | None = None
        self.places: dict[Hashable, int] = {}
        self.mean: Tensor | None = None  # M and D of the samples at their places, [T, samples, ...]
        self.deviation: Tensor | None = None

    def describe(self) -> dict[str, object]:
        return self.settings.describe()

    def follow(self, samples: Sequence[Hashable | None]) -> None:
        self.samples = samples

    def derivative(self, record: LayerRecord) -> Derivative:
        sharpness = self._sharpness((record.membrane - float(record.threshold)).abs())

        def atan(distance: Tensor, t: int, rows: slice) -> Tensor:
            alpha = sharpness[t, rows]
            return (alpha / 2).div_((distance * alpha).mul_(math.pi / 2).square_().add_(1))

        return atan

    def _sharpness(self, distance: Tensor) -> Tensor:
        """alpha [T, B, ...] for the distances |u - V| of the samples in hand, whose statistics move on."""
        samples, self.samples = self.samples, None
        if samples is None or len(samples) != distance.shape[1]:
            raise ModelContractError(
                "ASSG follows each sample through an attack and was not told which samples these are. Take gradients with "
                "trustsnn.blocks.input_gradient and draws, once per forward pass and layer."
            )
        rows = [row for row, sample in enumerate(samples) if sample is not None]
        places = [self._place(sample) for sample in samples if sample is not None]
        self._grow(distance)
        mean, deviation = torch.ones_like(distance), torch.zeros_like(distance)
        if self.mean is not None and self.deviation is not None:
            mean[:, rows], deviation[:, rows] = self.mean[:, places], self.deviation[:, places]
        keep = self.settings.decay
        mean.mul_(keep).add_(distance, alpha=1 - keep)
        deviation.mul_(keep).add_((distance - mean).abs_(), alpha=1 - keep)
        if self.mean is not None and self.deviation is not None:
            self.mean[:, places], self.deviation[:, places] = mean[:, rows], deviation[:, rows]
        reach = deviation.mul_(self.settings.spread).add_(mean).add_(1e-4)
        return reach.reciprocal_().mul_(2 * math.tan(math.pi * self.settings.area) / math.pi)

    def _place(self, sample: Hashable) -> int:
        return self.places.setdefault(sample, len(self.places))

    def _grow(self, like: Tensor) -> None:
        """Statistics for the samples that have a place and none yet, and room for as many again as there were."""
        known = self.mean.shape[1] if self.mean is not None else 0
        if len(self.places) > known:
            shape = (len(like), max(len(self.places) - known, known), *like.shape[2:])
            fresh = like.new_ones(shape), like.new_zeros(shape)
            self.mean = fresh[0] if self.mean is None else torch.cat([self.mean, fresh[0]], 1)
            self.deviation = fresh[1] if self.deviation is None else torch.cat([self.deviation, fresh[1]], 1)
