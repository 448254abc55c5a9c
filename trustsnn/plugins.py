"""Catalogues of what there is by name: bundled objects and third-party ones from entry points, loaded on first use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from trustsnn.errors import ConfigError, TrustSNNError


class Entry(NamedTuple):
    """Where an object is ("module:name") and one line on it."""

    target: str
    description: str


def load_object(target: str) -> Any:
    """The object at "package.module:name"; ConfigError if there is none."""
    module, _, name = target.partition(":")
    if not module or not name:
        raise ConfigError(f"Expected package.module:name, got {target!r}.")
    try:
        found = import_module(module)
        return getattr(found, name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"Could not import {module!r} for {target!r}: {error}. Is it installed, or on PYTHONPATH?") from error
    except AttributeError as error:
        raise ConfigError(f"The module {module!r} has no {name!r}.") from error
    except TrustSNNError:
        raise
    except Exception as error:
        raise ConfigError(f"Importing {module!r} for {target!r} failed with {type(error).__name__}: {error}") from error


def called(function: Any, target: str) -> Any:
    """What the function at `target` returns without arguments; ConfigError with what it raised."""
    try:
        return function()
    except Exception as error:
        raise ConfigError(
            f"{target} was called without arguments to make the model and raised {type(error).__name__}: {error}"
        ) from error


@dataclass(frozen=True)
class Catalogue:
    """Names of one kind. Third parties add theirs, named "package/name", through the entry-point group `group`."""

    kind: str
    group: str
    bundled: Mapping[str, Entry]

    def _third_party(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group) if "/" in point.name}

    def describe(self) -> dict[str, str]:
        """Every name with its line, bundled first, without importing any of them."""
        lines = {name: entry.description for name, entry in self.bundled.items()}
        lines.update({name: f"plug-in {point.value}" for name, point in sorted(self._third_party().items())})
        return lines

    def load(self, name: str) -> Any:
        """The object called `name`; ConfigError lists what there is and the closest name."""
        if name in self.bundled:
            return load_object(self.bundled[name].target)
        third_party = self._third_party()
        if name in third_party:
            return third_party[name].load()
        known = [*self.bundled, *third_party]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"Unknown {self.kind} {name!r}. Known: {', '.join(known) or 'none'}.{hint}")
