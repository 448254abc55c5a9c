"""The plan of an audit: its settings turned into cells, each with the attack object that evaluates it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import nn

from trustsnn.attacks import ATTACKS, Attack
from trustsnn.attacks.estimators import estimator
from trustsnn.blocks import is_stochastic
from trustsnn.errors import ConfigError
from trustsnn.neurons import SpikingNeuron
from trustsnn.runners.config import AttackSettings, AuditConfig
from trustsnn.runners.profiles import PROFILES
from trustsnn.runners.records import cell_key


@dataclass(frozen=True)
class PlannedCell:
    """One evaluation to do: its key, its definition, the attack (None for the clean cell) and a label for people."""

    key: str
    cell: dict[str, Any]
    attack: Attack | None
    label: str


def make_plan(model: nn.Module, subject: dict[str, str], config: AuditConfig) -> list[PlannedCell]:
    """The clean cell, then every attack at every norm and eps. `subject` holds the hashes of model and data.

    Another estimator than the model's own needs trustsnn's neurons: in a profile such cells are left out for a wrapped
    module, and in a user's own list they are refused.
    """
    domain = model.spec.domain  # type: ignore[union-attr]
    items = config.resolved_attacks()
    if domain != "image" and items:
        if config.attacks is not None:
            raise ConfigError(
                f"FGSM and PGD move pixels continuously and would leave the domain {domain!r}. Audit such a model with "
                "attacks: [] (on the command line: --attacks none), which measures its clean accuracy."
            )
        raise ConfigError(
            f"The profile {config.profile!r} has no attack for the domain {domain!r}. Pass --attacks none (attacks=[] in Python) to "
            "measure the clean accuracy alone."
        )
    own = any(isinstance(module, SpikingNeuron) for module in model.modules())
    if not own and config.attacks is None:
        items = tuple(item for item in items if item.estimator is None)
    planned = [_planned(subject, config, None, "clean")]
    for norm in config.norms:
        for eps in config.eps:
            for item in items:
                if item.estimator is not None and not own:
                    raise ConfigError(
                        f"The attack {item.attack!r} asks for the estimator {item.estimator.name!r}, but the model has none of "
                        "trustsnn's neurons whose backward pass could be replaced. Leave out its estimator."
                    )
                attack = _attack(model, item, norm, eps, config)
                planned.append(_planned(subject, config, attack, _label(attack, item)))
    if len({p.key for p in planned}) < len(planned):
        raise ConfigError("Two attacks of the plan are the same. Leave one of them out.")
    return planned


def _attack(model: nn.Module, item: AttackSettings, norm: str, eps: float, config: AuditConfig) -> Attack:
    kind = ATTACKS.load(item.attack)
    settings = dict(item.settings)
    if is_stochastic(model):
        settings.setdefault("eot", PROFILES[config.profile].eot)
    through = estimator(**item.estimator.model_dump()) if item.estimator is not None else None
    known = {field.name for field in dataclasses.fields(kind)} - {"norm", "eps", "estimator", "seed"}
    unknown = settings.keys() - known
    if unknown:
        raise ConfigError(
            f"The attack {item.attack!r} has no setting {', '.join(sorted(unknown))}. Known: {', '.join(sorted(known))}."
        )
    try:
        attack: Attack = kind(norm=norm, eps=eps, estimator=through, seed=config.seed, **settings)
    except TypeError as error:
        raise ConfigError(f"The settings of the attack {item.attack!r} do not fit: {error}.") from error
    return attack


def _planned(subject: dict[str, str], config: AuditConfig, attack: Attack | None, label: str) -> PlannedCell:
    through = attack.estimator if attack is not None else None
    cell = {
        **subject,
        "seed": config.seed,
        "twin": None,
        "threat": attack.describe() if attack is not None else {"attack": "none", "norm": None, "eps": 0.0},
        "estimator": through.describe() if through is not None else None,
    }
    return PlannedCell(cell_key(cell), cell, attack, label)


def _label(attack: Attack, item: AttackSettings) -> str:
    threat = attack.describe()
    steps = f"-{threat['steps']}" if "steps" in threat else ""
    settings = item.estimator.model_dump() if item.estimator is not None else {}
    through = f" through {' '.join(str(value) for value in settings.values())}" if settings else ""
    aim = " targeted" if attack.targeted else ""
    return f"{attack.name}{steps}{aim} {attack.norm} {attack.eps:.4g}{through}"
