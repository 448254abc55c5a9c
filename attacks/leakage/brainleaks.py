"""BrainLeaks: class images from spike trains that are given to the first layer (Poursiami, Alam & Parsa 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from trustsnn.attacks.leakage.class_attack import ClassAttack, Representations, logit
from trustsnn.blocks import input_gradient
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.rng import Draws


def _confidence(logits: Tensor, classes: Tensor) -> Tensor:
    return logit(log_softmax(logits, 1), classes)


@dataclass(frozen=True, kw_only=True)
class BrainLeaks(ClassAttack):
    """What both versions have in common: the class's softmax is climbed, over spike trains [n, T, C, H, W] of 0 and 1 that take the place of what
    the encoder makes of an image; the image is their mean over time.

    Args:
        iterations: of the ascent.
    """

    iterations: int = 10

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"Expected iterations of {self.name} of at least 1, got {self.iterations}.")

    def _attacked(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, SpikingNetwork):
            raise ConfigError(
                f"BrainLeaks gives spike trains to the first layer of a network of trustsnn's layers, got {type(model).__name__}."
            )
        spec = model.spec
        shape = (spec.steps, *spec.input_shape)
        spec = replace(spec, domain="events-binary", encoder="frames", input_shape=shape, stochastic=False)
        return SpikingNetwork(model.layers, spec, model.architecture)

    def describe(self) -> dict[str, Any]:
        estimator = None if self.estimator is None else self.estimator.describe()
        return {"attack": self.name, "through": self.route, "iterations": self.iterations, "estimator": estimator}


@dataclass(frozen=True, kw_only=True)
class BrainLeaksV1(BrainLeaks):
    """From silence: each iteration adds the sign of the gradient where a coin says so, whose probability is the gradient's size, from 0
    for an image's smallest to 1 for its largest, and holds the trains in [0, 1]."""

    name: ClassVar[str] = "brainleaks-v1"

    @property
    def route(self) -> str:
        return "trains"

    def _run(self, model: nn.Module, classes: Tensor, draws: Draws) -> Representations:
        spec: ModelSpec = model.spec  # type: ignore[assignment]
        trains = torch.zeros((len(classes), *spec.input_shape))
        zero = torch.zeros(len(classes), dtype=torch.bool)
        for iteration in range(self.iterations):
            gradient = input_gradient(model, trains, classes, _confidence).direction.nan_to_num(0.0, 0.0, 0.0)
            size = gradient.abs().flatten(1)
            least, largest = size.amin(1), size.amax(1)
            if iteration == 0:
                zero = largest == 0
            span = torch.where(largest > least, largest - least, 1.0)
            chance = ((size - least[:, None]) / span[:, None]).view_as(gradient)
            coin = draws.child("coin", iteration).uniform(spec.input_shape) < chance
            trains = (trains + coin * gradient.sign()).clamp(0, 1)
        return Representations(trains.mean(1), classes, zero)


@dataclass(frozen=True, kw_only=True)
class BrainLeaksV2(BrainLeaks):
    """The rates of the trains are moved, [n, C, H, W] in [0, 1] from uniform noise: each iteration draws a population of trains by them, and the mean
    of the gradients over population and time steps, straight through the draw, moves the largest rate by `step` and the others in
    proportion.

    The paper gives neither step nor number of iterations: these are ours.

    Args:
        population: trains an iteration.
        step: the largest change of a rate, above 0.
    """

    iterations: int = 50
    population: int = 7
    step: float = 0.1

    name: ClassVar[str] = "brainleaks-v2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.population < 1 or not (math.isfinite(self.step) and self.step > 0):
            raise ConfigError(
                f"Expected a population of at least 1 and a positive step of {self.name}, got {self.population} and {self.step}."
            )

    @property
    def route(self) -> str:
        return "rates"

    def _run(self, model: nn.Module, classes: Tensor, draws: Draws) -> Representations:
        spec: ModelSpec = model.spec  # type: ignore[assignment]
        rates = draws.child("start").uniform(spec.input_shape[1:])
        zero = torch.zeros(len(classes), dtype=torch.bool)
        for iteration in range(self.iterations):
            found = []
            for member in range(self.population):
                trains = (draws.child(iteration, member).uniform(spec.input_shape) < rates[:, None]).float()
                found.append(input_gradient(model, trains, classes, _confidence).direction.mean(1))
            gradient = torch.stack(found).mean(0).nan_to_num(0.0, 0.0, 0.0)
            largest = gradient.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
            if iteration == 0:
                zero = (largest == 0).flatten()
            rates = (rates + self.step * gradient / torch.where(largest > 0, largest, 1.0)).clamp(0, 1)
        return Representations(rates, classes, zero)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "population": self.population, "step": self.step}


BRAINLEAKS: dict[str, type[BrainLeaks]] = {each.name: each for each in (BrainLeaksV1, BrainLeaksV2)}
