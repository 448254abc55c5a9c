"""Who owns which samples: a data set divided among clients. Who gets what depends on the seed and on the samples' ids, not on their order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.canonical import sha256_of
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.federated.dealing import Group, Indices, Scheme, parse
from trustsnn.files import write_text
from trustsnn.rng import stream

FORMAT = "trustsnn-partition/1"


@dataclass(frozen=True, eq=False)
class Partition:
    """Which samples of a data set each client owns.

    indices: of each client, ascending, int64; no sample is owned twice. `left_out` counts those that nobody owns.
    count: samples of the data set. samples: SHA-256 of their ids in order. settings: how they were dealt, plain values.
    names: of the clients, by default their numbers.

    Raises:
        ConfigError: a client without data or without a name of its own, an index twice, out of order or out of range.
    """

    indices: tuple[Indices, ...]
    count: int
    samples: str
    settings: Mapping[str, Any]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.indices:
            raise ConfigError("Expected a partition with at least 1 client, got none.")
        names = tuple(self.names) or tuple(map(str, range(len(self.indices))))
        if len(set(names)) < len(names) or len(names) != len(self.indices):
            raise ConfigError(f"Expected a name of its own for each of {len(self.indices)} clients, got {len(set(names))} names.")
        for name, own in zip(names, self.indices, strict=True):
            if own.size == 0:
                raise ConfigError(f"Client {name} has no samples. Ask for fewer clients, or leave it out.")
            if own.ndim != 1 or own.dtype != np.int64 or bool((np.diff(own) <= 0).any()):
                raise ConfigError(f"Expected ascending indices of type int64, each once, for client {name}.")
            if own[0] < 0 or own[-1] >= self.count:
                raise ConfigError(
                    f"Expected indices in 0..{self.count - 1} for client {name}, got {own[0]}..{own[-1]}. The partition is of another data set."
                )
        every, times = np.unique(np.concatenate(self.indices), return_counts=True)
        if times.max() > 1:
            twice = every[times.argmax()]
            owners = [name for name, own in zip(names, self.indices, strict=True) if twice in own]
            raise ConfigError(f"Sample {twice} is owned by the clients {' and '.join(owners)}. Give it to one of them.")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "settings", dict(self.settings))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def left_out(self) -> int:
        """How many samples nobody owns."""
        return self.count - sum(len(own) for own in self.indices)

    def counts(self, data: Dataset) -> NDArray[np.int64]:
        """Samples of each client and class, [clients, K]. ConfigError as `check`."""
        self.check(data)
        return np.stack([np.bincount(data.labels[own], minlength=len(data.classes)) for own in self.indices])

    def check(self, data: Dataset) -> None:
        """ConfigError unless it is of this data set, in this order."""
        if self.samples != order_of(data):
            raise ConfigError(
                f"The partition is of {self.count} other samples, or of the same in another order, not of the {len(data)} of data set "
                f"{data.name!r}. Partition the data set again."
            )

    @property
    def sha256(self) -> str:
        """What tells one partition from another."""
        return sha256_of(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "format": FORMAT,
            "count": self.count,
            "samples": self.samples,
            "settings": dict(self.settings),
            "names": list(self.names),
            "indices": [own.tolist() for own in self.indices],
        }

    def write(self, path: Path) -> None:
        """As JSON with its SHA-256, atomically."""
        write_text(path, json.dumps({**self.to_dict(), "sha256": self.sha256}, sort_keys=True) + "\n")

    @staticmethod
    def read(path: Path) -> Partition:
        """Of a file that `write` made. ConfigError for any other."""
        try:
            found = json.loads(Path(path).read_bytes())
            if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
                raise ConfigError(f"Expected a partition (format {FORMAT!r}), got another file.")
            digest, names = found.pop("sha256"), found["names"]
            if type(found["count"]) is not int or not all(type(each) is str for each in [*names, found["samples"]]):
                raise ConfigError("Expected a whole number of samples, and names and a hash that are text.")
            indices = tuple(_indices(own) for own in found.pop("indices"))
            partition = Partition(indices, **{**found, "names": tuple(names)})
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError, ConfigError) as error:
            raise ConfigError(f"Could not read the partition {path}: {error} Partition the data set again.") from error
        if digest != partition.sha256:
            raise ConfigError(
                f"The partition {path} was altered: its SHA-256 is not the one in it. Partition the data set again."
            )
        return partition


def divide(
    data: Dataset,
    scheme: Scheme | str,
    clients: int | None = None,
    *,
    seed: int = 0,
    groups: Sequence[Any] | NDArray[Any] | None = None,
) -> Partition:
    """Deal the samples of `data` to clients; every sample goes to exactly one.

    Args:
        scheme: or its line, see `parse`.
        clients: how many; with `groups` one for each group unless told.
        groups: of the scheme "group", the group of each sample [N]: whole numbers or text.

    Raises:
        ConfigError: fewer samples or groups than clients, a scheme that cannot do it, or groups that are not one a sample.
    """
    scheme = parse(scheme) if isinstance(scheme, str) else scheme
    if groups is not None and not isinstance(scheme, Group):
        raise ConfigError(f"The partition {scheme.name!r} does not go by groups. Leave them out, or choose 'group'.")
    names, member = (None, None) if groups is None else _groups(groups, len(data))
    if clients is None and names is not None:
        clients = len(names)
    if type(clients) is not int or not 1 <= clients <= len(data):
        raise ConfigError(f"Expected 1 to {len(data)} clients for {len(data)} samples, got {clients!r}.")
    order = np.array(sorted(range(len(data)), key=data.ids.__getitem__), dtype=np.int64)
    dealt = scheme.deal(
        data.labels[order], None if member is None else member[order], clients, stream(seed, f"partition/{scheme.name}")
    )
    settings = {"scheme": scheme.name, **asdict(scheme), "clients": clients, "seed": seed}  # type: ignore[call-overload]
    named = names if names is not None and len(names) == clients else ()
    return Partition(tuple(np.sort(order[own]) for own in dealt), len(data), order_of(data), settings, named)


def order_of(data: Dataset) -> str:
    """SHA-256 (hex) of the ids of a data set in their order, which indices rely on."""
    return sha256_of(data.ids)


def _groups(groups: Sequence[Any] | NDArray[Any], count: int) -> tuple[tuple[str, ...], Indices]:
    """The names of the groups, sorted, and the number of each sample's group."""
    given = np.asarray(groups)
    if given.shape != (count,) or given.dtype.kind not in "iuU":
        raise ConfigError(
            f"Expected the groups of {count} samples, whole numbers or text, got {given.dtype} of shape {given.shape}."
        )
    names, member = np.unique(given, return_inverse=True)
    return tuple(map(str, names)), member.astype(np.int64)


def _indices(values: Any) -> Indices:
    found = np.asarray(values)
    if found.size and found.dtype.kind != "i":
        raise ConfigError("Expected whole numbers as indices.")
    return found.astype(np.int64)
