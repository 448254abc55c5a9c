"""A recipe by its name and settings, or by one line of text."""

from __future__ import annotations

import difflib
from dataclasses import fields
from fractions import Fraction
from typing import Any

from trustsnn.defenses.robust.base import Joined, Robust
from trustsnn.defenses.robust.catalogue import RECIPES
from trustsnn.errors import ConfigError
from trustsnn.plugins import load_object


def recipe(name: str, **settings: Any) -> Robust:
    """The recipe called `name` with these settings, plain values; those that are not given are the recipe's own.

    Raises:
        ConfigError: no such recipe, no such setting, or a value out of its range; the message names what there is.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"Unknown recipe {name!r}. Known: {', '.join(RECIPES)}.{hint}")
    kind = load_object(RECIPES[name].target)
    known = [each.name for each in fields(kind)]
    for given in settings:
        if given not in known:
            raise ConfigError(f"The recipe {name!r} has no setting {given!r}. Known: {', '.join(known)}.")
    found: Robust = kind(**settings)
    return found


def parse(text: str) -> Robust:
    """The recipe of a line such as "at", "at:eps=8/255:steps=3" or "at:eps=8/255+mpd-sgr".

    >>> parse("tgo:margin=1/2").describe()["margin"]
    0.5
    """
    parts = [_part(each) for each in text.split("+")]
    return parts[0] if len(parts) == 1 else Joined(parts)


def _part(text: str) -> Robust:
    name, *given = text.strip().split(":")
    settings = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals:
            raise ConfigError(f"Expected settings as name=value behind {name!r}, got {each!r}; such as at:eps=8/255:steps=3.")
        settings[key.strip()] = _number(name, value.strip(), each)
    return recipe(name, **settings)


def _number(name: str, value: str, given: str) -> float:
    try:
        number = Fraction(value)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"Expected a number or a fraction for the recipe {name!r}, got {given!r}.") from error
    return int(value) if value.lstrip("+-").isdigit() else float(number)
