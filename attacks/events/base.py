"""What every attack on event frames shares: its settings, its checks, and the call `attack(model, x, y)`."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import AttackResult
from trustsnn.attacks.catalogue import EVENT_NORMS
from trustsnn.attacks.events.oracle import Oracle
from trustsnn.blocks import frozen
from trustsnn.errors import ConfigError, DataError
from trustsnn.neurons import GradientEstimator
from trustsnn.rng import Draws


@dataclass(frozen=True, kw_only=True)
class EventResult(AttackResult):
    """Adversarial event frames [B, T, 2, H, W] of the model's domain, and what they took.

    fooled: whether the model gets the adversarial sample wrong, bool [B].
    changes: events inserted and deleted, or moved, for each sample, int64 [B].
    queries: forward passes that the attack took for each sample, int64 [B].
    """

    fooled: Tensor
    changes: Tensor
    queries: Tensor


@dataclass(frozen=True, kw_only=True)
class EventAttack(ABC):
    """An attack on event frames as a callable: `attack(model, x, y)` gives adversarial events shaped as `x`.

    Binary frames stay in {0, 1}, counts stay whole numbers in 0..max_count. A sample that is wrong already is left alone.

    Args:
        budget: the most events that may change (be inserted or deleted; for a retiming: be moved) in a sample; None leaves
            it to the attack's own cap.
        eot: for stochastic models, draws on all of which a sample is to be wrong; ignored for deterministic ones. They are the same at
            every question of an attack, so that a model is to be judged on others.
        estimator: how spikes are differentiated; None leaves it to the model.
        seed: of the attack's own draws, which are keyed by sample and independent of batch size and order.
    """

    budget: int | None = None
    eot: int = 1
    estimator: GradientEstimator | None = None
    seed: int = 0

    name: ClassVar[str]
    norm: ClassVar[str] = "events"  # what the budget counts, see EVENT_NORMS
    white_box: ClassVar[bool] = True  # whether it takes gradients

    def __post_init__(self) -> None:
        check_whole(self)
        at_least(1, eot=self.eot)
        if self.budget is not None:
            at_least(0, budget=self.budget)

    @property
    def eps(self) -> float | None:
        """The budget as the radius of the threat, in the unit of `norm`."""
        return None if self.budget is None else float(self.budget)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Adversarial events for a batch `x` [B, T, 2, H, W] with labels `y` [B]. `ids` key the random draws; they default to
        a hash of each sample."""
        return self.run(model, x, y, ids).adversarial

    def run(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str] | None = None) -> EventResult:
        """As the call, with the changes and queries of each sample."""
        most = check_events(model, x, y)
        draws = event_draws(self.seed, self.name, x, ids)
        estimator = self.estimator.applied(model) if self.estimator is not None else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), frozen(model), estimator:
            clean, oracle = x.detach().clone(), Oracle(model, y.clone(), most, draws, self.eot)
            adversarial, changes = self._run(oracle, clean, draws)
            queries = oracle.queries.clone()
            fooled, _ = oracle.margins(adversarial, torch.arange(len(x), device=x.device))
        return EventResult(
            adversarial,
            oracle.zero,
            oracle.nonfinite,
            fooled=fooled,
            changes=changes,
            queries=queries,
        )

    @abstractmethod
    def _run(self, oracle: Oracle, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The adversarial events, and how many events of each sample changed or moved."""

    def describe(self) -> dict[str, Any]:
        """The threat as plain values, for the key of a cell."""
        settings = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("budget", "estimator", "seed")
        }
        return {"attack": self.name, "norm": self.norm, "eps": self.eps, **settings}


def event_size(delta: Tensor, norm: str) -> Tensor:
    """The size [B] of changes to event frames [B, T, 2, H, W], in double precision. "events": how many were inserted and deleted.
    "moves": how many events moved at least; infinite where a pixel and polarity has more or fewer events than before."""
    changed = delta.abs().flatten(1).sum(1, dtype=torch.float64)
    if norm == "events":
        return changed
    if norm != "moves":
        raise ConfigError(f"Expected a norm of events among {', '.join(EVENT_NORMS)}, got {norm!r}.")
    return (changed / 2).masked_fill((delta.sum(1) != 0).flatten(1).any(1), torch.inf)


def check_whole(attack: Any) -> None:
    """ConfigError for a setting of an attack that is to be a whole number and is not one."""
    for setting in fields(attack):
        value, kind = getattr(attack, setting.name), str(setting.type)
        if kind.startswith("int") and type(value) is not int and not (value is None and kind.endswith("None")):
            raise ConfigError(f"Expected {setting.name} of {attack.name} as {kind}, got {value!r}.")


def at_least(low: float, **settings: float) -> None:
    """ConfigError for a setting below `low` or NaN."""
    for name, value in settings.items():
        if not value >= low:
            raise ConfigError(f"Expected {name} of at least {low}, got {value}.")


def event_draws(seed: int, task: str, x: Tensor, ids: Sequence[str] | None) -> Draws:
    """The draws of a batch, by id, or by a hash of each sample where no ids are given."""
    if ids is None:
        ids = [hashlib.sha256(sample.contiguous().cpu().numpy().tobytes()).hexdigest()[:16] for sample in x]
    if len(ids) != len(x):
        raise ConfigError(f"Expected {len(x)} ids, one a sample, got {len(ids)}.")
    return Draws(seed, task, tuple(map(str, ids)))


def check_events(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """The most events that a place may hold (1 for binary frames); ConfigError or DataError for what is no batch of events."""
    spec = getattr(model, "spec", None)
    domain = getattr(spec, "domain", "image")
    if spec is None or domain == "image":
        raise ConfigError(
            f"This attack changes events; the model's domain is {domain!r}. It is for models of the domains 'events-binary' and "
            "'events-count'. Wrap a module with trustsnn.wrap(module, domain='events-binary', time_steps=T)."
        )
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise DataError(f"Expected {name} as a torch tensor, got {type(value).__name__}. Convert it with torch.as_tensor.")
    if not x.is_floating_point() or y.dtype != torch.int64:
        raise DataError(f"Expected floating-point x and int64 y, got {x.dtype} and {y.dtype}. Convert with .float() and .long().")
    if x.dim() != 5 or x.shape[2] != 2 or (spec.input_shape and tuple(x.shape[1:]) != tuple(spec.input_shape)):
        shape = ", ".join(map(str, spec.input_shape)) if spec.input_shape else "T, 2, H, W"
        raise DataError(f"Expected events of shape [B, {shape}], got {list(x.shape)}.")
    if y.dim() != 1 or len(x) != len(y) or len(x) == 0:
        raise DataError(f"Expected as many labels as samples and at least one, got {len(x)} samples and labels {list(y.shape)}.")
    if int(y.min()) < 0 or int(y.max()) >= spec.classes:
        raise DataError(f"Expected labels in 0..{spec.classes - 1}, got {int(y.min())}..{int(y.max())}.")
    most = int(spec.max_count or 1)
    if not torch.isfinite(x).all():
        raise DataError("Expected finite events, got NaN or infinity. Clean the data before the attack.")
    if not ((x == x.round()) & (x >= 0) & (x <= most)).all():
        raise DataError(
            f"Expected whole numbers in 0..{most} (domain {domain!r}), got values in [{float(x.min()):.4g}, {float(x.max()):.4g}]"
            ". Binarise or round the frames."
        )
    return most
