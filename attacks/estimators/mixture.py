"""The weighted mean of several estimators, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trustsnn.attacks.estimators import estimator
from trustsnn.errors import ConfigError
from trustsnn.neurons import GradientEstimator, LayerGradients, LayerRecord
from trustsnn.neurons.estimator import SpikingLayer


@dataclass(frozen=True)
class Mixture(GradientEstimator):
    """g_x = sum_i w_i g_x^(i) / sum_i w_i at every layer, such as HART with STBP (Hao, ICLR 2024).

    Args:
        parts: the estimators, at least one.
        weights: one for each, not negative and not all 0; equal if not given.
    """

    parts: tuple[GradientEstimator, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts or not all(isinstance(part, GradientEstimator) for part in self.parts):
            raise ConfigError(f"Expected the parts of a mixture as a tuple of gradient estimators, got {self.parts!r}.")
        weights = self.weights or (1.0,) * len(self.parts)
        usable = all(isinstance(w, int | float) and math.isfinite(w) and w >= 0 for w in weights)
        if len(weights) != len(self.parts) or not usable or sum(weights) == 0:
            raise ConfigError(f"Expected {len(self.parts)} weights of at least 0, not all 0, got {self.weights!r}.")
        object.__setattr__(self, "weights", tuple(map(float, weights)))

    @property
    def needs_current(self) -> bool:
        return any(part.needs_current for part in self.parts)

    def describe(self) -> dict[str, object]:
        return {"name": "mixture", "parts": [part.describe() for part in self.parts], "weights": list(self.weights)}

    def follow(self, samples: Sequence[Hashable | None]) -> None:
        for part in self.parts:
            part.follow(samples)

    @contextmanager
    def prepared(self, model: nn.Module) -> Iterator[Mapping[SpikingLayer, GradientEstimator]]:
        with ExitStack() as stack:
            each = [stack.enter_context(part.prepared(model)) for part in self.parts]
            yield {neuron: Mixture(tuple(part[neuron] for part in each), self.weights) for neuron in each[0]}

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        found = [part.backward(record, spike_gradient, parameters) for part in self.parts]
        return LayerGradients(*(self._mean(gradients) for gradients in zip(*found, strict=True)))  # type: ignore[arg-type]

    def _mean(self, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """The weighted mean; a part without that gradient counts as zero."""
        total = sum(self.weights)
        terms = [
            weight / total * gradient for weight, gradient in zip(self.weights, gradients, strict=True) if gradient is not None
        ]
        return sum(terms[1:], terms[0]) if terms else None


def mixture(parts: Sequence[GradientEstimator | Mapping[str, Any]], weights: Sequence[float] = ()) -> Mixture:
    """A `Mixture` whose parts may be given as a configuration file gives them, {"name": ..., setting: ...}."""
    built = []
    for part in parts:
        if isinstance(part, Mapping):
            if "name" not in part:
                raise ConfigError(f"Expected a part of a mixture with a name, got {dict(part)}.")
            part = estimator(**part)
        built.append(part)
    return Mixture(tuple(built), tuple(weights))
