"""What every method of certification shares: checked settings, and a certificate for one sample."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from trustsnn.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method with its settings. Everything that `entry` returns is plain values, for a file."""

    name: ClassVar[str]
    norm: ClassVar[str]

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """ConfigError where the method does not fit the model."""

    @abstractmethod
    def entry(self, model: nn.Module, x: Tensor, sample: str) -> dict[str, Any]:
        """The certificate of one sample `x` [C, H, W] in [0, 1], named `sample`: "prediction" (a class, or null where there is
        none to vouch for), "radius" in `norm` and input units (or null), and the evidence. Call inside `frozen(model)`."""

    def describe(self) -> dict[str, Any]:
        """The settings, plain values."""
        return asdict(self)

    def need(self, fine: bool, what: str, got: Any) -> None:
        """ConfigError unless `fine`."""
        if not fine:
            raise ConfigError(f"Expected {what} for the method {self.name!r}, got {got}.")


@dataclass(frozen=True, kw_only=True)
class Sampled(Method):
    """A method that counts votes over random draws.

    Args:
        draws: of the estimate, for each sample.
        selection: draws that choose the class, independent of those of the estimate (Cohen 2019, algorithm Certify).
        alpha: the chance, at most, that the certificate of a sample is wrong.
        seed: of the draws, which are keyed by the sample: equal draws give equal counts, in any batch or order.
    """

    draws: int = 1000
    selection: int = 100
    alpha: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("draws", "selection"):
            value = getattr(self, name)
            self.need(type(value) is int and value >= 1, f"{name} of at least 1", value)
        self.need(math.isfinite(self.alpha) and 0 < self.alpha < 0.5, "alpha in (0, 0.5)", self.alpha)
        self.need(type(self.seed) is int, "a whole number as seed", self.seed)


def check_images(method: Method, model: nn.Module) -> None:
    """ConfigError for a model that does not take images in [0, 1]."""
    spec: Any = getattr(model, "spec", None)
    domain = getattr(spec, "domain", "image")
    method.need(domain == "image", "a model of images in [0, 1]", f"the domain {domain!r}")
