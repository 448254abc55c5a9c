"""A thing of a catalogue with its settings, by one line of text such as "at:eps=8/255:steps=3". Nothing of it is ever executed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from fractions import Fraction
from typing import Any, Protocol, cast

from trustsnn.errors import ConfigError
from trustsnn.plugins import load_object

Scalar = bool | int | float | str


class Entry(Protocol):
    """What a catalogue holds: among others where the class is, "module:name"."""

    @property
    def target(self) -> str: ...


def chosen(kind: str, catalogue: Mapping[str, Entry], name: str, settings: Mapping[str, Any]) -> Any:
    """The dataclass called `name` with these settings; those that are not given are its own.

    Raises:
        ConfigError: no such name, no such setting, or a value out of its range; the message names what there is.
    """
    if name not in catalogue:
        close = difflib.get_close_matches(name, catalogue, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"Unknown {kind} {name!r}. Known: {', '.join(catalogue)}.{hint}")
    return with_settings(kind, name, load_object(catalogue[name].target), settings)


def with_settings(kind: str, name: str, found: Any, settings: Mapping[str, Any]) -> Any:
    """An instance of the dataclass `found`, which is called `name`, with these settings; those that are not given are its own.

    Raises:
        ConfigError: no dataclass, no such setting, or a value out of its range.
    """
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ConfigError(f"Expected the {kind} {name!r} to be a dataclass, whose fields are its settings, got {found!r}.")
    known = [each.name for each in fields(found)]
    for given in settings:
        if given not in known:
            raise ConfigError(f"The {kind} {name!r} has no setting {given!r}. Known: {', '.join(known) or 'none'}.")
    return cast(Any, found)(**settings)


def setting(default: float, low: float = 0.0, high: float = math.inf, *, above: bool = False) -> Any:
    """A number in [low, high], or (low, high] with `above`, as a field of a dataclass; see `check_settings`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def check_settings(thing: Any, called: str) -> None:
    """ConfigError where a field made by `setting` is out of its range; a whole number becomes a float where the field is one. `called` says
    what the dataclass is, such as "recipe 'at'"."""
    for each in fields(thing):
        value, kind = getattr(thing, each.name), str(each.type)
        if not each.metadata:
            continue
        low, high, above = (each.metadata[key] for key in ("low", "high", "above"))
        whole = kind != "int" or type(value) is int
        number = type(value) in (int, float) and math.isfinite(value)
        if not (whole and number and low <= value <= high and not (above and value == low)):
            room = f"{'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < math.inf else "")
            raise ConfigError(
                f"Expected {each.name} of the {called} as a {'whole ' * (kind == 'int')}number {room}, got {value!r}."
            )
        object.__setattr__(thing, each.name, value if kind == "int" else float(value))


def check_choice(called: str, name: str, value: object, choices: Sequence[object]) -> None:
    """ConfigError unless `value` is one of `choices`, and of the same type; `called` as in `check_settings`."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ConfigError(f"Expected {name} of the {called} as one of {', '.join(map(repr, choices))}, got {value!r}.")


def parse(text: str, example: str) -> tuple[str, dict[str, Scalar]]:
    """Name and settings of "name:key=value:key=value"; a value is a number, a fraction, true, false or a word."""
    name, *given = text.strip().split(":")
    settings = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals:
            raise ConfigError(f"Expected settings as name=value behind {name!r}, got {each!r}; such as {example}.")
        settings[key.strip()] = _value(value.strip())
    return name, settings


def from_line(kind: str, catalogue: Mapping[str, Entry], text: str, example: str) -> Any:
    """The dataclass that a line such as "dirichlet:0.5:minimum=10" names; a first value without a name is its first setting.

    Raises:
        ConfigError: as `chosen` and `parse`.
    """
    name, _, rest = text.strip().partition(":")
    known = name in catalogue
    if known and rest and "=" not in rest.partition(":")[0]:
        first = fields(load_object(catalogue[name].target))[:1]
        rest = "".join(f"{each.name}=" for each in first) + rest
    return chosen(kind, catalogue, *parse(f"{name}:{rest}" if rest and known else name, example))


def _value(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    try:
        number = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return text
    return int(text) if text.lstrip("+-").isdigit() else float(number)
