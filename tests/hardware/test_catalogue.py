"""The catalogue of twins against what the documentation says of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from trustsnn.hardware.catalogue import TWINS
from trustsnn.hardware.choose import twin

PAGE = Path(__file__).parents[2] / "docs" / "hardware.md"


def told(name: str) -> dict[str, str]:
    """The settings of a twin and what they are unless given, by the table of the documentation."""
    (row,) = re.findall(rf"^\| (?=[^|]*`{name}`)[^|]* \| ([^|]*`.*) \|$", PAGE.read_text(), re.MULTILINE)
    base = re.match(r"as `([a-z-]+)`", row)
    return {**(told(base[1]) if base else {}), **dict(re.findall(r"`([a-z_0-9]+)` ([\w.]+)", row))}


@pytest.mark.parametrize("name", TWINS)
def test_the_settings_of_a_twin_are_documented(name):
    found = {field.name: field.default for field in dataclasses.fields(twin(name))}
    assert told(name) == {key: str(value).lower() if isinstance(value, bool) else _plain(value) for key, value in found.items()}


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
