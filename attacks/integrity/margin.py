"""The membrane margin: how far an input can drive each class above all others (MM-BD, Wang, IEEE S&P 2024, arXiv 2205.06900; of the membranes
of spiking networks TMPBD, Li, RAID 2025, arXiv 2510.06629). It reads no data: a backdoor leaves its class a margin out of proportion."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import gamma
from torch import Tensor, nn

from trustsnn.attacks.integrity.evidence import Evidence
from trustsnn.blocks import frozen, input_gradient, is_stochastic
from trustsnn.data import Dataset
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import GradientEstimator
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.rng import Draws
from trustsnn.settings import check_settings, setting

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Margin:
    """The largest margin u_c - max u_k, k other than c, that gradient ascent from uniform noise finds for each class c, u being the mean over time
    of the readout's membrane (of a readout that counts spikes, that before the spike). A step moves the entry with the largest gradient
    by `step` of the range and the others in proportion; events are rounded on the way.

    A Gamma law is fitted to the margins of the other classes; p = 1 - F(margin)^K is the chance that the largest of K classes reaches
    as far. The index is -log10 p.

    Args:
        starts: inputs a class.
        steps: of the ascent.
        step: in parts of the range of the samples.
        estimator: how spikes are differentiated; None leaves it to the model.
    """

    starts: int = setting(10, 1)
    steps: int = setting(60, 1)
    step: float = setting(0.05, 0.0, 1.0, above=True)
    estimator: GradientEstimator | None = None

    name: ClassVar[str] = "margin"
    source: ClassVar[str] = "MM-BD (Wang 2024): p below 0.05 under a Gamma law of the other classes' margins"
    threshold: ClassVar[float] = -math.log10(LEVEL)

    def __post_init__(self) -> None:
        check_settings(self, "membrane margin")

    def run(self, model: nn.Module, data: Dataset, seed: int = 0) -> Evidence:
        """What the margins say of each class. Of `data` the shape is read alone."""
        spec: ModelSpec = model.spec  # type: ignore[assignment]
        judged = _Membrane(model) if spec.readout == "spike-count" and isinstance(model, SpikingNetwork) else model
        estimator = self.estimator.applied(judged) if self.estimator is not None else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), frozen(judged), estimator:
            margins, moved = self._ascend(judged, spec, data.sample_shape, seed)
        problem = None
        if not moved:
            problem = "zero gradient: no gradient reached an input, so that the margins are those of noise"
        elif min(margins) <= 0:
            problem = f"no input was found that the model takes for class {int(np.argmin(margins))}"
        elif np.ptp(margins) <= 1e-6 * max(margins):
            problem = "all classes have the same largest margin: the readout saturates"
        index = (0.0,) * len(margins) if problem else tuple(-math.log10(each) for each in p_values(margins))
        return Evidence(
            self.name, "largest margin of the membrane", tuple(margins.tolist()), index, self.threshold, self.source, problem
        )

    def _ascend(self, model: nn.Module, spec: ModelSpec, shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.float64], bool]:
        most = 1.0 if spec.domain != "events-count" else float(spec.max_count or 1)
        y = torch.arange(spec.classes).repeat_interleave(self.starts)
        draws = Draws(seed, "margin", tuple(f"{c}-{k}" for c in range(spec.classes) for k in range(self.starts)))
        x = most * draws.child("start").uniform(shape)
        best, moved = torch.full((len(x),), -torch.inf, dtype=torch.double), False
        for step in range(self.steps + 1):
            found = input_gradient(
                model, x if spec.domain == "image" else x.round(), y, _margin, draws.child(step) if is_stochastic(model) else None
            )
            best = torch.maximum(best, found.losses)
            gradient = found.direction.nan_to_num(0.0, 0.0, 0.0)
            largest = gradient.abs().flatten(1).amax(1).view(-1, *[1] * len(shape))
            moved = moved or bool((largest > 0).any())
            x = (x + self.step * most * gradient / torch.where(largest > 0, largest, 1.0)).clamp(0, most)
        return best.view(spec.classes, self.starts).amax(1).numpy(), moved

    def describe(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {
            "detector": self.name, "starts": self.starts, "steps": self.steps, "step": self.step,
            "estimator": None if self.estimator is None else self.estimator.describe(),
        }  # fmt: skip


def p_values(margins: NDArray[np.float64]) -> tuple[float, ...]:
    """1 - F(r)^K of each of K positive margins r, F the Gamma law (from 0) that the others are most likely under; at least 1e-300."""
    found = []
    for place, each in enumerate(margins):
        others = np.delete(margins, place)
        if np.ptp(others) <= 1e-9 * others.max():
            others = others * (1 + 1e-6 * np.linspace(-1, 1, len(others)))
        shape, _, scale = gamma.fit(others, floc=0)
        beyond = float(gamma.sf(each, shape, scale=scale))
        found.append(max(-math.expm1(len(margins) * math.log1p(-beyond)) if beyond < 1 else 1.0, 1e-300))
    return tuple(found)


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None])[:, 0] - others.amax(1)


class _Membrane(nn.Module):
    """A network that counts spikes, as the mean over time of its readout's membrane before the spike, from the threshold."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.network, self.spec = network, network.spec

    def forward(self, x: Tensor, generator: Any = None) -> Tensor:
        _, distances = self.network.distances(x, generator)
        return mean_over_time(list(distances.values())[-1])
