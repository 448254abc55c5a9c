"""The messages of secure aggregation, and the flat records of bytes, int, str and lists of those in which they travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Self, get_type_hints

from trustsnn.errors import ProtocolError

ADVERTISE_KEYS, SHARE_KEYS, MASKED_INPUT, UNMASK = STAGES = ("advertise keys", "share keys", "masked input", "unmask")

Record = dict[str, str | int | bytes | list[int] | list[bytes]]


@dataclass(frozen=True, kw_only=True)
class Message:
    """What all messages hold: the run and the round that they are of. No message names its sender: the transport must know it."""

    run: str
    round: int

    def to_record(self) -> Record:
        """A flat dict, as Flower's ConfigRecord takes it. A dict by id becomes two lists, `name` and `name.ids`."""
        record: Record = {"kind": type(self).__name__}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, dict):
                record[f"{each.name}.ids"] = sorted(value)
                record[each.name] = [value[i] for i in sorted(value)]
            else:
                record[each.name] = list(value) if isinstance(value, tuple) else value
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The message of a record of `to_record`: one of this class, or of any that derives from it. ProtocolError for anything else."""
        kind = next((each for each in (cls, *cls.__subclasses__()) if each.__name__ == record.get("kind")), None)
        if kind is None:
            raise ProtocolError(f"Expected a message of kind {cls.__name__}, got {record.get('kind')!r}.")
        hints = get_type_hints(kind)
        expected = {"kind", *hints, *(f"{name}.ids" for name, hint in hints.items() if hint == dict[int, bytes])}
        if set(record) != expected:
            raise ProtocolError(f"Expected the entries {sorted(expected)} in a {kind.__name__}, got {sorted(record)}.")
        return kind(**{name: _parsed(record, name, hint, kind.__name__) for name, hint in hints.items()})


@dataclass(frozen=True, kw_only=True)
class PublicKeys(Message):
    """Client to server, `advertise keys`: two X25519 public keys, 64 bytes: of the channel, of the masks."""

    keys: bytes


@dataclass(frozen=True, kw_only=True)
class Cohort(Message):
    """Server to clients: the public keys of all that advertised some."""

    keys: dict[int, bytes]


@dataclass(frozen=True, kw_only=True)
class SealedShares(Message):
    """Client to server, `share keys`: sealed shares by receiver. Server to a client: those sealed for it, by sender."""

    sealed: dict[int, bytes]


@dataclass(frozen=True, kw_only=True)
class MaskedInput(Message):
    """Client to server, `masked input`: the masked vector, little-endian integers of the ring."""

    vector: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest(Message):
    """Server to clients: who sent a masked input, and who shared keys and sent none."""

    survivors: tuple[int, ...]
    dropped: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Unmasking(Message):
    """Client to server, `unmask`: its shares of the seeds of the survivors' own masks, and of the mask keys of the dropped."""

    seeds: dict[int, bytes] = field(repr=False)
    keys: dict[int, bytes] = field(repr=False)


def is_id(value: object) -> bool:
    """Whether this is a whole number from 0 to 2^64 - 1, as ids and rounds are."""
    return type(value) is int and 0 <= value < 1 << 64


def check_message(message: Message, kind: type[Message], run: str, round: int, where: str) -> None:
    """ProtocolError for a message of another kind, run or round."""
    if type(message) is not kind:
        raise ProtocolError(f"Expected a message of kind {kind.__name__} {where}, got {type(message).__name__}.")
    if (message.run, message.round) != (run, round):
        raise ProtocolError(
            f"Expected a message of run {run!r}, round {round} {where}, got one of run {message.run!r}, round {message.round}."
        )


def too_few(stage: str, run: str, round: int, answered: int, asked: int, threshold: int) -> ProtocolError:
    """The error of a stage that fewer than the threshold answered."""
    return ProtocolError(
        f"Secure aggregation stopped at the stage {stage!r} of run {run!r}, round {round}: {answered} of {asked} clients answered, the "
        f"threshold is {threshold}. Nothing of this round can be read; start a new one."
    )


def _parsed(record: Mapping[str, Any], name: str, hint: Any, kind: str) -> Any:
    value = record[name]
    if hint is bytes or hint is str:
        good = type(value) is hint
    elif hint is int:
        good = is_id(value)
    elif hint == tuple[int, ...]:
        good, value = _are_ids(value), tuple(value) if isinstance(value, list) else value
    else:
        ids = record[f"{name}.ids"]
        good = _are_ids(ids) and type(value) is list and len(value) == len(ids) and all(type(each) is bytes for each in value)
        value = dict(zip(ids, value, strict=True)) if good else value
    if not good:
        raise ProtocolError(
            f"The entry {name!r} of a {kind} is not as agreed: expected {hint}, ids from 0 to 2^64 - 1 in rising order."
        )
    return value


def _are_ids(value: Any) -> bool:
    return type(value) is list and all(map(is_id, value)) and all(low < high for low, high in pairwise(value))
