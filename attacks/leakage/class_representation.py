"""Class leakage: an image of what a model takes for a class, by gradient ascent on that class's logit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.corruptions.textures import smoothed
from trustsnn.attacks.leakage.class_attack import ClassAttack, Representations, logit
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import input_gradient, is_stochastic
from trustsnn.errors import ConfigError
from trustsnn.models.spec import ModelSpec
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class ClassRepresentation(ClassAttack):
    """Gradient ascent on a class's logit from uniform noise, with a Gaussian blur every few iterations (Kim, Venkatesha, Panda,
    AAAI 2022, after Simonyan 2014). The attacker has the weights and no data.

    An iteration moves the pixel with the largest gradient by `step` and the others in proportion, and holds all in [0, 1]: the length
    of the gradient says nothing, so that weights in other units are attacked no less.

    Args:
        through: "ann" or "snn", see `ROUTES`.
        iterations: of the ascent.
        step: in pixel values, above 0.
        blur_every: iterations from one blur to the next; 0 never blurs.
        sigma: of the blur, in pixels.
        eot: draws that a gradient of a stochastic model is averaged over.
        estimator: of the route "snn"; None leaves it to the model.

    `ClassRepresentation(through="snn")(model, [0, 1, 1])` is one image of class 0 and two of class 1.
    """

    through: str = "ann"
    iterations: int = 100
    step: float = 0.05
    blur_every: int = 10
    sigma: float = 0.5
    eot: int = 1

    name: ClassVar[str] = "class-representation"

    def __post_init__(self) -> None:
        if self.through not in ("ann", "snn"):
            raise ConfigError(f"Expected a class representation through one of ann, snn, got {self.through!r}.")
        for name, low in (("iterations", 1), ("blur_every", 0), ("eot", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"Expected {name} of the class representation of at least {low}, got {getattr(self, name)}.")
        for name in ("step", "sigma"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"Expected a positive {name} of the class representation, got {getattr(self, name)}.")
        if self.through == "ann" and self.estimator is not None:
            raise ConfigError(
                "A class representation through 'ann' meets no spike: leave the estimator out, or go through 'snn'."
            )

    @property
    def route(self) -> str:
        return self.through

    def _attacked(self, model: nn.Module) -> nn.Module:
        return ann_twin(model) if self.through == "ann" else model

    def _run(self, model: nn.Module, classes: Tensor, draws: Draws) -> Representations:
        spec: ModelSpec = model.spec  # type: ignore[assignment]
        x = draws.child("start").uniform(spec.input_shape)
        zero = torch.zeros(len(x), dtype=torch.bool)
        for iteration in range(self.iterations):
            if self.blur_every and iteration and iteration % self.blur_every == 0:
                x = torch.from_numpy(smoothed(x.numpy(), self.sigma))
            gradient = self._gradient(model, x, classes, draws.child(iteration))
            largest = gradient.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
            if iteration == 0:
                zero = (largest == 0).flatten()
            x = (x + self.step * gradient / torch.where(largest > 0, largest, 1.0)).clamp(0, 1)
        return Representations(x, classes, zero)

    def _gradient(self, model: nn.Module, x: Tensor, classes: Tensor, draws: Draws) -> Tensor:
        repeats = self.eot if is_stochastic(model) else 1
        found = [input_gradient(model, x, classes, logit, draws.child("eot", k)).direction for k in range(repeats)]
        return torch.stack(found).mean(0).nan_to_num(0.0, 0.0, 0.0)

    def describe(self) -> dict[str, Any]:
        return {
            "attack": self.name, "through": self.through, "iterations": self.iterations, "step": self.step,
            "blur_every": self.blur_every, "sigma": self.sigma, "eot": self.eot,
            "estimator": None if self.estimator is None else self.estimator.describe(),
        }  # fmt: skip
