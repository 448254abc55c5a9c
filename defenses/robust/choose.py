"""A recipe by its name and settings, or by one line of text."""

from __future__ import annotations

from typing import Any

from trustsnn.defenses.robust.base import Joined, Robust
from trustsnn.defenses.robust.catalogue import RECIPES
from trustsnn.settings import chosen
from trustsnn.settings import parse as parse_line


def recipe(name: str, **settings: Any) -> Robust:
    """The recipe called `name` with these settings, plain values; those that are not given are the recipe's own.

    Raises:
        ConfigError: no such recipe, no such setting, or a value out of its range; the message names what there is.
    """
    found: Robust = chosen("recipe", RECIPES, name, settings)
    return found


def parse(text: str) -> Robust:
    """The recipe of a line such as "at", "at:eps=8/255:steps=3" or "at:eps=8/255+mpd-sgr".

    >>> parse("tgo:margin=1/2").describe()["margin"]
    0.5
    """
    parts = []
    for each in text.split("+"):
        name, given = parse_line(each, "at:eps=8/255:steps=3")
        parts.append(recipe(name, **given))
    return parts[0] if len(parts) == 1 else Joined(parts)
