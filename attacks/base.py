"""What every evasion attack shares: its settings, its checks, and the call `attack(model, x, y)`."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.losses import check_loss, raised
from trustsnn.attacks.norms import check_norm
from trustsnn.blocks import InputGradient, frozen, input_gradient, is_stochastic, predict
from trustsnn.errors import ConfigError, DataError
from trustsnn.neurons import GradientEstimator
from trustsnn.rng import Draws


@dataclass(frozen=True)
class AttackResult:
    """Adversarial samples [B, ...] in [0, 1], and what was seen of the gradient at the attack's first step, per sample.

    `queries` [B], where an attack counts them: forward passes that the sample took part in. `fell` [B], where it tells: processor
    seconds from its start until the sample was misclassified and done, infinity where it never was.
    """

    adversarial: Tensor
    zero_gradient: Tensor
    nonfinite_gradient: Tensor
    queries: Tensor | None = None
    fell: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An evasion attack as a callable: `attack(model, x, y)` gives adversarial samples shaped as `x`.

    Args:
        eps: radius of the ball, in input units, at least 0.
        norm: "linf", "l2", "l1" or "l0", as far as the attack has it (`norms`).
        targeted: move towards a class drawn per sample (never the label) instead of away from the label.
        loss: "ce", "ce-scaled", "margin", "margin-ties" or "dlr".
        eot: for stochastic models, draws that each gradient is averaged over (expectation over transformation,
            Athalye 2018); ignored for deterministic ones.
        estimator: how spikes are differentiated; None leaves it to the model.
        seed: of the attack's own draws, which are keyed by sample and independent of batch size and order.

    The model's weights are frozen and it runs in eval mode; both are restored afterwards.
    """

    eps: float
    norm: str = "linf"
    targeted: bool = False
    loss: str = "ce"
    eot: int = 1
    estimator: GradientEstimator | None = None
    seed: int = 0

    name: ClassVar[str]
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    route: ClassVar[str] = "white-box"  # or "black-box", from outputs alone, or "transfer", by way of another model
    searches_eps: ClassVar[bool] = False  # for each sample, up to `eps`: an audit then asks at its largest eps alone
    own_loss: ClassVar[bool] = False  # that cannot be chosen
    least: ClassVar[dict[str, float]] = {"seed": -math.inf}  # of whole-number settings: of the others, which count something, 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise ConfigError(f"Expected eps of at least 0 (the radius of the perturbation, in input units), got {self.eps}.")
        for setting in fields(self):
            value, kind = getattr(self, setting.name), setting.type
            if kind in ("int", "bool") and type(value).__name__ != kind:
                raise ConfigError(f"Expected {setting.name} of {self.name} as {kind}, got {value!r}.")
            least = self.least.get(setting.name, 1)
            if kind == "int" and value < least:
                raise ConfigError(f"Expected {setting.name} of at least {least:g}, got {value}.")
        check_norm(self.norm, self.norms)
        if self.norm == "l0" and self.eps != int(self.eps):
            raise ConfigError(f"Expected eps as a number of pixels in the norm l0, got {self.eps}.")
        check_loss(self.loss)
        if self.own_loss and self.loss != "ce":
            raise ConfigError(f"The attack {self.name!r} has a loss of its own, got {self.loss!r}. Leave loss out.")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Adversarial samples for a batch `x` [B, ...] in [0, 1] with labels `y` [B]. `ids` key the random draws; they
        default to a hash of each sample."""
        return self.run(model, x, y, ids).adversarial

    def run(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str] | None = None) -> AttackResult:
        """As the call, with what was seen of the gradients."""
        check_batch(model, x, y)
        draws = Draws(self.seed, self.name, tuple(map(str, ids)) if ids is not None else content_ids(x))
        if len(draws.ids) != len(x):
            raise ConfigError(f"Expected {len(x)} ids, one a sample, got {len(draws.ids)}.")
        estimator = self.estimator.applied(model) if self.estimator is not None else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), frozen(model), estimator:
            return self._run(model, x.detach().clone(), y.clone(), draws)

    @abstractmethod
    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult: ...

    def describe(self) -> dict[str, Any]:
        """The threat as plain values, for the key of a cell."""
        settings = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("estimator", "seed")}
        return {"attack": self.name, **settings, "eps": float(self.eps)}

    def gradient(self, model: nn.Module, x: Tensor, goal: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, losses and the direction of the gradient of the loss to raise at `x`, for a stochastic model of its mean
        over `eot` draws. The direction's length says nothing. The draws name the samples to estimators that keep statistics."""
        return mean_gradient([input_gradient(model, x, goal, self._raised, each) for each in self._transformations(model, draws)])

    def losses(self, model: nn.Module, x: Tensor, goal: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Logits and the loss to raise at `x`, in double precision, NaN as minus infinity."""
        logits = torch.stack([predict(model, x, each) for each in self._transformations(model, draws)]).mean(0)
        return logits, self._raised(logits, goal).double().nan_to_num(-torch.inf)

    def _raised(self, logits: Tensor, goal: Tensor) -> Tensor:
        return raised(self.loss, logits, goal)

    def _transformations(self, model: nn.Module, draws: Draws) -> list[Draws]:
        return transformations(model, draws, self.eot)

    def goal(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        """What the loss is about: labels [B], or in a targeted attack pairs [B, 2] of label and a drawn other class."""
        if not self.targeted:
            return y
        classes = predict(model, x[:1], draws.select([0])).shape[1]
        offset = (draws.child("target").uniform(()) * (classes - 1)).long().clamp_max(classes - 2) + 1
        return torch.stack([y, (y + offset.to(y.device)) % classes], 1)


def transformations(model: nn.Module, draws: Draws, eot: int) -> list[Draws]:
    """The draws that an expectation over transformation is over: `eot` of a stochastic model, one of another."""
    return [draws.child("eot", k) for k in range(eot if is_stochastic(model) else 1)]


def mean_gradient(parts: Sequence[InputGradient]) -> tuple[Tensor, Tensor, Tensor]:
    """The mean logits and losses of what several draws gave, and the direction of the mean gradient."""
    if len(parts) == 1:
        return parts[0].logits, parts[0].losses, parts[0].direction
    scales = torch.stack([part.scale for part in parts])
    largest = scales.amax(0)
    weights = (scales / torch.where(largest > 0, largest, 1.0)).to(parts[0].direction.dtype)
    dimensions = [1] * (parts[0].direction.dim() - 1)
    direction = sum(w.view(-1, *dimensions) * part.direction for w, part in zip(weights, parts, strict=True))
    logits, losses = (torch.stack(each).mean(0) for each in ([p.logits for p in parts], [p.losses for p in parts]))
    return logits, losses, torch.as_tensor(direction)


def check_batch(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """ConfigError or DataError for what is no batch of images [B, ...] in [0, 1] with labels [B], for a model of images."""
    domain = getattr(getattr(model, "spec", None), "domain", "image")
    if domain != "image":
        raise ConfigError(
            f"This attack moves pixels continuously and would leave the domain {domain!r}. It is for models of the domain 'image'."
        )
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise DataError(f"Expected {name} as a torch tensor, got {type(value).__name__}. Convert it with torch.as_tensor.")
    if not x.is_floating_point() or y.dtype != torch.int64:
        raise DataError(f"Expected floating-point x and int64 y, got {x.dtype} and {y.dtype}. Convert with .float() and .long().")
    if len(x) != len(y) or len(x) == 0:
        raise DataError(f"Expected as many labels as samples and at least one, got {len(x)} samples and {len(y)} labels.")
    if not torch.isfinite(x).all():
        raise DataError("Expected finite inputs, got NaN or infinity. Clean the data before the attack.")
    if float(x.min()) < 0 or float(x.max()) > 1:
        raise DataError(
            f"Expected inputs in [0, 1], got [{float(x.min()):.4g}, {float(x.max()):.4g}]. Put normalisation inside the model."
        )


def content_ids(x: Tensor) -> tuple[str, ...]:
    """A hash of each sample, for draws that nothing else keys."""
    return tuple(hashlib.sha256(sample.contiguous().cpu().numpy().tobytes()).hexdigest()[:16] for sample in x)
