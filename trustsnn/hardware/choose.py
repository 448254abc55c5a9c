"""A hardware twin by its name and settings, or several by one line of text."""

from __future__ import annotations

import re
from typing import Any

from trustsnn.errors import ConfigError
from trustsnn.hardware.catalogue import TWINS
from trustsnn.hardware.twin import Twin
from trustsnn.settings import chosen
from trustsnn.settings import parse as parse_line

_SECONDS = {"s": 1, "min": 60, "h": 3600, "day": 86_400, "week": 604_800, "month": 2_592_000, "year": 31_536_000}


def twin(name: str, **settings: Any) -> Twin:
    """The twin called `name` with these settings, plain values; those that are not given are its own.

    Raises:
        ConfigError: no such twin, no such setting, or a value out of its range; the message names what there is.
    """
    found: Twin = chosen("twin", TWINS, name, settings)
    return found


def parse(text: str) -> tuple[Twin, ...]:
    """The twins of a line such as "loihi", "pcm@1month" or "pcm@1month+adc:output_bits=8", which make one chip together.

    What follows an @ is the time since the weights were programmed: a number of s, min, h, day, week, month (30 days) or year.
    """
    found = []
    for each in text.split("+"):
        head, colon, rest = each.strip().partition(":")
        name, at, time = head.partition("@")
        _, settings = parse_line(name + colon + rest, "pcm@1month:compensate=false")
        if at:
            settings["time"] = seconds(time)
        found.append(twin(name, **settings))
    return tuple(found)


def seconds(text: str) -> float:
    """Seconds of a duration such as "25s", "1h" or "1month"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text)
    if match is None or match[2] not in _SECONDS:
        raise ConfigError(f"Expected a time such as 25s, 1h, 1day or 1month, got {text!r}. Units: {', '.join(_SECONDS)}.")
    return float(match[1]) * _SECONDS[match[2]]
