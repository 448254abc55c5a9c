"""Transfer: adversarial samples made on another model, such as the network's twin without spikes (Papernot 2016,
arXiv 1605.07277). Where they break more than an attack on the model itself, the model's gradients mislead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor, nn

from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.pgd import PGD
from trustsnn.errors import ConfigError
from trustsnn.rng import Draws

Source = nn.Module | Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Runs an attack on a source model and hands its samples to the target, whose gradients are not used.

    Without `inner`, that is PGD with `steps` steps and this attack's own eps, norm, targeted, loss, eot and seed, which does not
    stop at the first sample that misleads the source: samples deeper in the wrong class transfer better.

    Args:
        source: the source model, or a callable that makes one from the target, once a batch; None for the target's twin
            without spikes (`trustsnn.attacks.twin.ann_twin`).
        inner: the attack to run on the source, with the same eps, norm and targeted.
        estimator: how spikes of the source are differentiated, if it has any.
    """

    steps: int = 20
    source: Source | None = None
    inner: Attack | None = None

    name: ClassVar[str] = "transfer"
    route: ClassVar[str] = "transfer"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner is not None:
            mine, its = ((each.norm, float(each.eps), each.targeted) for each in (self, self.inner))
            if mine != its:
                raise ConfigError(f"Expected an inner attack of the same norm, eps and targeted, {mine}, got {its}.")
            default = {field.name: field.default for field in fields(self)}
            given = [name for name in ("steps", "loss", "eot", "estimator", "seed") if getattr(self, name) != default[name]]
            if given:
                raise ConfigError(f"Transfer runs its inner attack as that is: give {', '.join(given)} to that one.")
        if self.estimator is not None and self.source is None:
            raise ConfigError(
                "The twin without spikes has no spike to differentiate. Leave out estimator, or give a spiking source."
            )

    def _attack(self) -> Attack:
        if self.inner is not None:
            return self.inner
        return PGD(
            eps=self.eps,
            norm=self.norm,
            targeted=self.targeted,
            loss=self.loss,
            eot=self.eot,
            estimator=self.estimator,
            seed=self.seed,
            steps=self.steps,
            early_stop=False,
        )

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "source": _name(self.source), "inner": self._attack().describe()}

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> AttackResult:
        source = self.source
        if source is None:
            from trustsnn.attacks.twin import ann_twin

            source = ann_twin
        other = source if isinstance(source, nn.Module) else source(model)
        return self._attack().run(other, x, y, draws.ids)


def _name(source: Source | None) -> str:
    """The source for the key of a cell: a module by its class and the SHA-256 of its weights, a callable by its name."""
    if source is None:
        return "ann-twin"
    if not isinstance(source, nn.Module):
        return f"{source.__module__}:{getattr(source, '__qualname__', type(source).__qualname__)}"
    digest = hashlib.sha256()
    for key, value in sorted(source.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"{type(source).__qualname__} {digest.hexdigest()}"
