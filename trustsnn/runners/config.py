"""The settings of an audit, from keywords, the command line or a YAML file. Nothing in a file is ever executed."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trustsnn.attacks.catalogue import EVENT_NORMS
from trustsnn.attacks.corruptions.catalogue import SEVERITIES, defaults
from trustsnn.errors import ConfigError
from trustsnn.runners.profiles import PROFILES

Scalar = bool | int | float | str | None

IMAGE_NORMS = ("linf", "l2", "l1", "l0")
IMAGE_EPS = (2 / 255, 4 / 255, 8 / 255)
EVENT_EPS = (10.0, 30.0, 100.0)


def parse_eps(value: Any) -> float:
    """A radius as a number or a fraction, such as 0.1 or "8/255"; at least 0 and finite."""
    number = math.nan
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(?:/\s*([0-9.eE+-]+)\s*)?", value)
        if match:
            try:
                number = float(match[1]) / float(match[2] or 1)
            except (ValueError, ZeroDivisionError):
                number = math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"expected eps of at least 0, such as 0.1 or 8/255, got {value!r}")
    return number


_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_memory(text: str) -> int:
    """Bytes of "2GB", "512 MiB" or "1.5gb"."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in _UNITS or float(found[1]) == 0:
        raise ValueError(f"expected an amount of memory such as 2GB or 512MB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].lower()])


class EstimatorSettings(BaseModel):
    """How an attack differentiates a spike: an estimator of `trustsnn list estimators` by name, and its own settings beside
    it, such as the surrogate and width of "stbp"."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "stbp"


class AttackSettings(BaseModel):
    """One attack to run at every norm and eps: its name, its settings, and an estimator in place of the model's own. A setting that is
    a list stands for one attack for each of its entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    attack: str
    settings: dict[str, Any] = {}
    estimator: EstimatorSettings | None = None

    @field_validator("settings")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, each in value.items():
            some = _listed(each)
            if not some or not all(isinstance(one, Scalar) for one in some):
                raise ValueError(
                    f"expected a number, a word, true, false, null, or a list of some of them, for {name}, got {each!r}"
                )
        return value

    def each(self) -> list[AttackSettings]:
        """The attacks that the lists among the settings stand for."""
        values = itertools.product(*map(_listed, self.settings.values()))
        return [self.model_copy(update={"settings": dict(zip(self.settings, some, strict=True))}) for some in values]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


class AuditConfig(BaseModel):
    """The settings of an audit. Unknown keys are refused. Norms and radii that are not given depend on the model's domain."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    profile: str = "quick"
    norms: tuple[str, ...] | None = None
    eps: tuple[float, ...] | None = None
    attacks: tuple[AttackSettings, ...] | None = None
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = SEVERITIES
    ood: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    chips: int = Field(20, ge=1)
    samples: int | None = Field(1000, ge=1)
    seed: int = 0
    batch_size: int = Field(256, ge=1)
    memory: int | None = None
    gates: tuple[str, ...] = ()

    @field_validator("eps", mode="before")
    @classmethod
    def _eps(cls, value: Any) -> Any:
        if value is None:
            return None
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(sorted({parse_eps(v) for v in values}))

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        return parse_memory(value) if isinstance(value, str) else value

    @field_validator("norms", "corruptions", "ood", "twins", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("corruptions", "ood", "twins")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("severities")
    @classmethod
    def _severities(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not set(value) <= set(SEVERITIES):
            raise ValueError(f"expected severities among {', '.join(map(str, SEVERITIES))}, got {list(value)}")
        return tuple(sorted(set(value)))

    @field_validator("norms", "eps")
    @classmethod
    def _some(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if value is not None and not value:
            raise ValueError("expected at least one entry; attacks: [] is the way to audit without attacks")
        return value

    @field_validator("attacks")
    @classmethod
    def _each_setting(cls, value: tuple[AttackSettings, ...] | None) -> tuple[AttackSettings, ...] | None:
        return tuple(one for item in value for one in item.each()) if value is not None else None

    @field_validator("profile")
    @classmethod
    def _profile(cls, value: str) -> str:
        if value not in PROFILES:
            raise ValueError(f"expected one of {', '.join(PROFILES)}, got {value!r}")
        return value

    def threats(self, domain: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The norms and the radii (for events: budgets) for a model of that domain; ConfigError for those of another one."""
        image = domain == "image"
        norms = self.norms or (("linf",) if image else EVENT_NORMS)
        eps = self.eps or (IMAGE_EPS if image else EVENT_EPS)
        known = IMAGE_NORMS if image else EVENT_NORMS
        wrong = [norm for norm in norms if norm not in known]
        if wrong:
            raise ConfigError(f"Unknown norm {wrong[0]!r} for a model of the domain {domain!r}. Known: {', '.join(known)}.")
        broken = [value for value in eps if not image and value != round(value)]
        if broken:
            raise ConfigError(
                f"Expected whole numbers of events as eps for a model of the domain {domain!r}, got {broken[0]:g}. Pass budgets such "
                "as 10,30,100."
            )
        return norms, eps

    def resolved_corruptions(self, domain: str) -> tuple[str, ...]:
        """The names of the corruptions for a model of that domain; "all" stands for those of the domain."""
        listed = [defaults(domain) if name == "all" else (name,) for name in self.corruptions]
        return tuple(dict.fromkeys(name for names in listed for name in names))

    def resolved_attacks(self, domain: str) -> tuple[AttackSettings, ...]:
        """The attacks to run on a model of that domain: those given, or the profile's."""
        if self.attacks is not None:
            return self.attacks
        return tuple(
            AttackSettings(
                attack=item.attack,
                settings=item.settings,
                estimator=EstimatorSettings(**item.estimator) if item.estimator else None,
            )
            for item in PROFILES[self.profile].attacks(domain)
        )


def make_config(values: dict[str, Any], where: str = "the settings of the audit") -> AuditConfig:
    """Validated settings; ConfigError names each wrong key, what was expected and what was got."""
    try:
        return AuditConfig(**values)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{where}: {_explain(error)}. Known keys: {', '.join(AuditConfig.model_fields)}.") from error


def _explain(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    parts = []
    for problem in error.errors():
        place = ".".join(str(p) for p in problem["loc"])
        message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {message}")
    return "; ".join(parts)


def _given_twice(node: yaml.Node | None) -> str | None:
    """A key that a mapping anywhere below `node` holds twice: YAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        twice = [str(key) for key in keys if keys.count(key) > 1]
        return twice[0] if twice else next(filter(None, (_given_twice(value) for _, value in node.value)), None)
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_given_twice, node.value)), None)
    return None


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError says where it is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        twice = _given_twice(yaml.compose(text, Loader=yaml.SafeLoader))
        content = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file at {path}.") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"Could not read {path} as YAML: {error}") from error
    if twice is not None:
        raise ConfigError(f"The key {twice!r} is given twice in {path}. Keep one of them.")
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"Expected keys and values in {path}, got {type(content).__name__}.")
    return content
