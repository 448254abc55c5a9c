"""Class leakage: an image of what a model takes for a class, by gradient ascent on that class's logit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.corruptions.textures import smoothed
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import frozen, input_gradient, is_stochastic
from trustsnn.errors import ConfigError
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import GradientEstimator
from trustsnn.rng import Draws

ROUTES = {
    "ann": "through a ReLU network with the model's weights",
    "snn": "through the model itself, its spikes differentiated by an estimator and averaged over the time steps",
}


@dataclass(frozen=True)
class Representations:
    """Images [n, C, H, W] in [0, 1] and the class of each [n]; `zero_gradient` [n]: the gradient was 0 at the first iteration, so that
    an image may say more about the estimator than about the model."""

    images: Tensor
    classes: Tensor
    zero_gradient: Tensor


@dataclass(frozen=True, kw_only=True)
class ClassRepresentation:
    """Gradient ascent on a class's logit from uniform noise, with a Gaussian blur every few iterations (Kim, Venkatesha, Panda,
    AAAI 2022, after Simonyan 2014). The attacker has the weights and no data.

    An iteration moves the pixel with the largest gradient by `step` and the others in proportion, and holds all in [0, 1]: the length
    of the gradient says nothing, so that weights in other units are attacked no less.

    Args:
        through: one of `ROUTES`.
        iterations: of the ascent.
        step: in pixel values, above 0.
        blur_every: iterations from one blur to the next; 0 never blurs.
        sigma: of the blur, in pixels.
        eot: draws that a gradient of a stochastic model is averaged over.
        estimator: of the route "snn"; None leaves it to the model.
        seed: of starts and draws, which are keyed by class and repetition.

    `ClassRepresentation(through="snn")(model, [0, 1, 1])` is one image of class 0 and two of class 1.
    """

    through: str = "ann"
    iterations: int = 100
    step: float = 0.05
    blur_every: int = 10
    sigma: float = 0.5
    eot: int = 1
    estimator: GradientEstimator | None = None
    seed: int = 0

    name: ClassVar[str] = "class-representation"

    def __post_init__(self) -> None:
        if self.through not in ROUTES:
            raise ConfigError(f"Expected a class representation through one of {', '.join(ROUTES)}, got {self.through!r}.")
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

    def __call__(self, model: nn.Module, classes: Sequence[int]) -> Tensor:
        """An image for each entry of `classes`, [n, C, H, W]; a class that comes again starts from other noise."""
        return self.run(model, classes).images

    def run(self, model: nn.Module, classes: Sequence[int]) -> Representations:
        """As the call, with what was seen of the gradients.

        Raises:
            ConfigError: no class or one that the model does not have, a model of events, or the route "ann" for a model that is no
                `SpikingNetwork`.
        """
        spec: ModelSpec = model.spec  # type: ignore[assignment]
        wanted = [int(each) for each in classes]
        if not wanted or not all(0 <= each < spec.classes for each in wanted):
            raise ConfigError(f"Expected classes in 0..{spec.classes - 1}, at least one, got {wanted}.")
        if spec.domain != "image":
            raise ConfigError(
                f"Expected a model of images, got one of the domain {spec.domain!r}: pixels are moved continuously."
            )
        attacked = ann_twin(model) if self.through == "ann" else model
        estimator = self.estimator.applied(attacked) if self.estimator is not None else nullcontext()
        draws = Draws(self.seed, self.name, _named(wanted))
        with torch.inference_mode(False), torch.enable_grad(), frozen(attacked), estimator:
            return self._run(attacked, torch.tensor(wanted), draws, spec.input_shape)

    def _run(self, model: nn.Module, classes: Tensor, draws: Draws, shape: tuple[int, ...]) -> Representations:
        x = draws.child("start").uniform(shape)
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
        found = [input_gradient(model, x, classes, _logit, draws.child("eot", k)).direction for k in range(repeats)]
        return torch.stack(found).mean(0).nan_to_num(0.0, 0.0, 0.0)

    def describe(self) -> dict[str, Any]:
        """The settings as plain values; the seed is told apart from them."""
        return {
            "attack": self.name, "through": self.through, "iterations": self.iterations, "step": self.step,
            "blur_every": self.blur_every, "sigma": self.sigma, "eot": self.eot,
            "estimator": None if self.estimator is None else self.estimator.describe(),
        }  # fmt: skip


def _logit(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _named(classes: list[int]) -> tuple[str, ...]:
    seen: Counter[int] = Counter()
    names = []
    for each in classes:
        names.append(f"{each}-{seen[each]}")
        seen[each] += 1
    return tuple(names)
