"""The plan of an audit: its settings turned into cells, each with the attack object that evaluates it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from trustsnn.attacks import ATTACKS, Attack
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.catalogue import EVENT_ATTACKS, IMAGE_ATTACKS
from trustsnn.attacks.estimators import estimator
from trustsnn.attacks.events import EventAttack
from trustsnn.blocks import is_stochastic
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.runners.chips import Chips, Deployed, Maker
from trustsnn.runners.config import AttackSettings, AuditConfig
from trustsnn.runners.profiles import PROFILES
from trustsnn.runners.records import cell_key

AnyAttack = Attack | EventAttack


@dataclass(frozen=True)
class Corruption:
    """A natural corruption at one severity."""

    name: str
    severity: int

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.name}, severity {self.severity}"

    def describe(self) -> dict[str, Any]:
        """As a cell's threat."""
        return {"attack": "corruption", "corruption": self.name, "severity": self.severity, "norm": None, "eps": 0.0}


@dataclass(frozen=True)
class Outside:
    """Samples that the model was not made for, by the name of their source; `data` is None where they are made of the audited
    samples."""

    source: str
    data: Dataset | None = None

    @property
    def label(self) -> str:
        """In words."""
        return f"out of distribution: {self.source}"

    def describe(self) -> dict[str, Any]:
        """As a cell's threat."""
        digest = None if self.data is None else self.data.samples_sha256
        return {"attack": "ood", "source": self.source, "samples_sha256": digest, "norm": None, "eps": 0.0}


@dataclass(frozen=True)
class PlannedCell:
    """One evaluation to do: its key, its definition, a label for people, and the attack or the shift that it is about. The clean
    cell has neither. With `chips` it is about the network on hardware."""

    key: str
    cell: dict[str, Any]
    label: str
    attack: AnyAttack | None = None
    shift: Corruption | Outside | None = None
    chips: Chips | None = None
    of: str | None = None  # on chips: the key of the cell with the same attack on the network


def attacks_to_run(plan: Iterable[PlannedCell]) -> list[AnyAttack]:
    """The attacks of these cells, each as often as it runs: what one makes on the network serves all kinds of chips."""
    made, found = set[str | None](), []
    for each in plan:
        on_network = each.chips is not None and each.chips.maker == "network"
        if each.attack is not None and not (on_network and each.of in made):
            found.append(each.attack)
        made.add(each.of if on_network else each.key)
    return found


def make_plan(
    model: nn.Module, subject: dict[str, str], config: AuditConfig, outside: Sequence[Outside] = ()
) -> list[PlannedCell]:
    """The clean cell, every attack at every norm and eps that it is for, every corruption at every severity, and the sources of
    `outside` samples. `subject` holds the hashes of model and data.

    Where the model's neurons refuse an estimator, the cells of a profile through it are left out, and those of a user's own list
    are an error.
    """
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    norms, radii = config.threats(spec.domain)
    listed = config.attacks is not None
    items = [item for item in config.resolved_attacks(spec.domain) if listed or _refusal(item, model) is None]
    kinds = [_kind(item, model, spec.domain) for item in items]
    base = {**subject, "seed": config.seed, "twin": None}
    planned = [_planned(base, {"attack": "none", "norm": None, "eps": 0.0}, "clean")]
    own_eot: set[str] = set()
    for norm in norms:
        for eps in radii:
            for item, kind in zip(items, kinds, strict=True):
                if _has(kind, norm, eps == radii[-1]):
                    attack = _attack(kind, model, item, norm, eps, config)
                    planned.append(_planned(base, attack.describe(), _label(attack, item), attack=attack))
                    own_eot |= {planned[-1].key} if "eot" in item.settings else set()
    _check_norms(config, norms, items, kinds)
    shifts: list[Corruption | Outside] = [
        Corruption(name, s) for name in config.resolved_corruptions(spec.domain) for s in config.severities
    ]
    planned += [_planned(base, shift.describe(), shift.label, shift=shift) for shift in [*shifts, *outside]]
    deployed = Deployed()
    kinds_of_chips = [Chips.of(line, config.chips, config.seed, deployed) for line in config.twins]
    planned += [each for chips in kinds_of_chips for each in _on_chips(model, planned, chips, config, own_eot)]
    if len({p.key for p in planned}) < len(planned):
        raise ConfigError("Two attacks of the plan are the same. Leave one of them out.")
    return planned


def _on_chips(
    model: nn.Module, planned: Sequence[PlannedCell], chips: Chips, config: AuditConfig, own_eot: set[str]
) -> list[PlannedCell]:
    """For chips of one kind: the clean cell, each attack's samples made on the network and made on a chip, and each corruption.

    The attack is the same one, but goes on where a sample is misclassified already: a sample that stops just past the border of the
    one that it was made on says little about the others. On a chip it has the expectation over its draws where a chip draws and the network
    does not: as many as the profile says, but for the cells `own_eot`, whose settings say it.
    """
    if not isinstance(model, SpikingNetwork):
        raise ConfigError(f"--twin runs networks of trustsnn's own layers, got {type(model).__name__}. Leave it out.")
    draws = is_stochastic(chips.chip(model, 0)) and not is_stochastic(model)
    found = []
    for each in planned:
        if isinstance(each.shift, Outside):
            continue
        makers: tuple[Maker | None, ...] = ("network", "chip") if each.attack is not None else (None,)
        onward = each.attack
        if onward is not None and hasattr(onward, "early_stop"):
            onward = replace(onward, early_stop=False)  # type: ignore[call-arg]
        of = cell_key({**each.cell, "threat": onward.describe()}) if onward is not None else None
        for maker in makers:
            attack = onward
            averages = attack is not None and any(field.name == "eot" for field in dataclasses.fields(attack))
            if averages and maker == "chip" and draws and each.key not in own_eot:
                attack = replace(attack, eot=PROFILES[config.profile].eot)  # type: ignore[type-var]
            made = replace(chips, maker=maker)
            cell = {
                **each.cell,
                "twin": made.describe(),
                "threat": attack.describe() if attack is not None else each.cell["threat"],
            }
            label = f"{each.label}{f' made on the {maker}' if maker else ''}, {chips.line}"
            found.append(PlannedCell(cell_key(cell), cell, label, attack, each.shift, made, of))
    return found


def _has(kind: type[AnyAttack], norm: str, largest: bool) -> bool:
    """Whether an attack is asked at that norm, and at an eps that is the `largest` or not."""
    if issubclass(kind, EventAttack):
        return kind.norm == norm
    return norm in kind.norms and (largest or not kind.searches_eps)


def balls(plan: Iterable[PlannedCell]) -> list[tuple[str, float]]:
    """The planned norms and radii, sorted."""
    cells = (each for each in plan if each.chips is None)
    return sorted({(each.attack.norm, float(each.attack.eps or 0.0)) for each in cells if each.attack is not None})


def _refusal(item: AttackSettings, model: nn.Module) -> str | None:
    """Why the estimator that an attack asks for cannot differentiate the model; None where it can, or none is asked for."""
    return estimator(**item.estimator.model_dump()).refusal(model) if item.estimator is not None else None


def _kind(item: AttackSettings, model: nn.Module, domain: str) -> type[AnyAttack]:
    """The class of an attack that suits the model."""
    kind: type[AnyAttack] = ATTACKS.load(item.attack)
    if issubclass(kind, EventAttack) != (domain != "image"):
        fitting = IMAGE_ATTACKS if domain == "image" else EVENT_ATTACKS
        raise ConfigError(f"The attack {item.attack!r} is not for the domain {domain!r}. For it: {', '.join(fitting)}.")
    refused = _refusal(item, model)
    if refused and item.estimator is not None:
        raise ConfigError(
            f"The attack {item.attack!r} asks for the estimator {item.estimator.name!r}, but {refused} Leave out its estimator."
        )
    return kind


def _check_norms(config: AuditConfig, norms: tuple[str, ...], items: list[AttackSettings], kinds: list[type[AnyAttack]]) -> None:
    """ConfigError where an attack or a norm that was asked for has no cell."""
    theirs = {
        item.attack: (kind.norm,) if issubclass(kind, EventAttack) else kind.norms
        for item, kind in zip(items, kinds, strict=True)
    }
    if not theirs:
        return
    listed = ", ".join(f"{name} ({', '.join(own)})" for name, own in theirs.items())
    alone = [name for name, own in theirs.items() if not set(own) & set(norms)]
    if config.attacks is not None and alone:
        raise ConfigError(
            f"The attack {alone[0]!r} is for the norm {', '.join(theirs[alone[0]])}, got the norms {', '.join(norms)}."
        )
    empty = [norm for norm in norms if not any(norm in own for own in theirs.values())]
    if config.norms is not None and empty:
        raise ConfigError(
            f"No attack of this audit has the norm {empty[0]!r}. Its attacks: {listed}. Ask for others with --attacks."
        )


def _attack(
    kind: type[AnyAttack], model: nn.Module, item: AttackSettings, norm: str, eps: float, config: AuditConfig
) -> AnyAttack:
    settings: dict[str, Any] = dict(item.settings)
    if is_stochastic(model):
        settings.setdefault("eot", PROFILES[config.profile].eot)
    if issubclass(kind, SNNAutoAttack):
        settings.setdefault("profile", config.profile)
    through = estimator(**item.estimator.model_dump()) if item.estimator is not None else None
    threat = {"budget": int(eps)} if issubclass(kind, EventAttack) else {"norm": norm, "eps": eps}
    known = {field.name for field in dataclasses.fields(kind)} - {*threat, "estimator", "seed"}
    unknown = settings.keys() - known
    if "settings" in known:  # of another package's attack, which checks them itself
        settings["settings"] = {name: settings.pop(name) for name in sorted(unknown)}
    elif unknown:
        raise ConfigError(
            f"The attack {item.attack!r} has no setting {', '.join(sorted(unknown))}. Known: {', '.join(sorted(known))}."
        )
    try:
        attack: AnyAttack = kind(**threat, estimator=through, seed=config.seed, **settings)
    except TypeError as error:
        raise ConfigError(f"The settings of the attack {item.attack!r} do not fit: {error}.") from error
    return attack


def _planned(base: dict[str, Any], threat: dict[str, Any], label: str, **what: Any) -> PlannedCell:
    through = getattr(what.get("attack"), "estimator", None)
    cell = {**base, "threat": threat, "estimator": through.describe() if through is not None else None}
    return PlannedCell(cell_key(cell), cell, label, **what)


def _label(attack: AnyAttack, item: AttackSettings) -> str:
    threat = attack.describe()
    steps = f"-{threat['steps']}" if "steps" in threat else ""
    settings = item.estimator.model_dump() if item.estimator is not None else {}
    through = f" through {' '.join(str(value) for value in settings.values())}" if settings else ""
    aim = " targeted" if threat.get("targeted") else ""
    others = "".join(f", {name} {value}" for name, value in item.settings.items() if name not in ("steps", "targeted"))
    return f"{attack.name}{steps}{aim} {attack.norm} {attack.eps:.4g}{through}{others}"
