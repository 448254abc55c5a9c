"""What every attack has in common that makes images of a model's classes from its weights."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.blocks import frozen
from trustsnn.errors import ConfigError
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import GradientEstimator
from trustsnn.rng import Draws

ROUTES = {
    "ann": "through a ReLU network with the model's weights",
    "snn": "through the model itself, its spikes differentiated by an estimator and averaged over the time steps",
    "trains": "spike trains given to the first layer in place of what the encoder makes of an image",
    "rates": "the rates of such spike trains",
}


@dataclass(frozen=True)
class Representations:
    """Images [n, C, H, W] in [0, 1] and the class of each [n]; `zero_gradient` [n]: the gradient was 0 at the first iteration, so that
    an image may say more about the estimator than about the model."""

    images: Tensor
    classes: Tensor
    zero_gradient: Tensor


@dataclass(frozen=True, kw_only=True)
class ClassAttack:
    """Images of classes from the weights alone.

    Args:
        estimator: how spikes are differentiated; None leaves it to the model.
        seed: of starts and draws, which are keyed by class and repetition.
    """

    estimator: GradientEstimator | None = None
    seed: int = 0

    name: ClassVar[str]

    @property
    @abstractmethod
    def route(self) -> str:
        """One of `ROUTES`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The settings as plain values, the route under "through"; the seed is told apart from them."""

    @abstractmethod
    def _attacked(self, model: nn.Module) -> nn.Module:
        """The network that the gradients are of."""

    @abstractmethod
    def _run(self, model: nn.Module, classes: Tensor, draws: Draws) -> Representations:
        """The images for `classes` from that network, which is frozen."""

    def __call__(self, model: nn.Module, classes: Sequence[int]) -> Tensor:
        """An image for each entry of `classes`, [n, C, H, W]; a class that comes again starts from other noise."""
        return self.run(model, classes).images

    def run(self, model: nn.Module, classes: Sequence[int]) -> Representations:
        """As the call, with what was seen of the gradients.

        Raises:
            ConfigError: no class or one that the model does not have, a model of events, or one that is no `SpikingNetwork` where the
                attack needs one.
        """
        spec: ModelSpec = model.spec  # type: ignore[assignment]
        wanted = [int(each) for each in classes]
        if not wanted or not all(0 <= each < spec.classes for each in wanted):
            raise ConfigError(f"Expected classes in 0..{spec.classes - 1}, at least one, got {wanted}.")
        if spec.domain != "image":
            raise ConfigError(
                f"Expected a model of images, got one of the domain {spec.domain!r}: pixels are moved continuously."
            )
        attacked = self._attacked(model)
        estimator = self.estimator.applied(attacked) if self.estimator is not None else nullcontext()
        draws = Draws(self.seed, self.name, _named(wanted))
        with torch.inference_mode(False), torch.enable_grad(), frozen(attacked), estimator:
            return self._run(attacked, torch.tensor(wanted), draws)


def logit(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of each sample's class [n]."""
    return logits.gather(1, classes[:, None])[:, 0]


def _named(classes: list[int]) -> tuple[str, ...]:
    seen: Counter[int] = Counter()
    names = []
    for each in classes:
        names.append(f"{each}-{seen[each]}")
        seen[each] += 1
    return tuple(names)
