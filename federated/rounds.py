"""What a killed federation goes on from: the server's state after a round, and what stays with a client."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from trustsnn.canonical import canonical_json
from trustsnn.errors import RunError, UnsafeArtifactError
from trustsnn.federated.arrays import Arrays
from trustsnn.files import write_atomically

STATE = "state.safetensors"


@dataclass
class Rounds:
    """The last finished round, the global model after it, a row of plain figures for each round so far, and what clients said of themselves
    when they were met: how many samples they train on and hold out."""

    round: int
    arrays: Arrays
    rows: list[dict[str, Any]] = field(default_factory=list)
    clients: dict[int, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path, identity: str) -> None:
        """Write the state, atomically: a reader finds the round before or this one."""
        clients = {str(client): self.clients[client] for client in sorted(self.clients)}
        write(folder / STATE, self.arrays, {"round": self.round, "identity": identity, "rows": self.rows, "clients": clients})


def resume(folder: Path, identity: str) -> Rounds | None:
    """The state that is in `folder`, None where there is none.

    Raises:
        RunError: it is the state of another federation.
        UnsafeArtifactError: the file is cut short or altered.
    """
    path = folder / STATE
    if not path.exists():
        return None
    arrays, told = read(path)
    if told.keys() != {"round", "identity", "rows", "clients"} or told["identity"] != identity:
        raise RunError(
            f"{folder} holds another federation. Choose another folder, or give the settings that this one was begun with."
        )
    clients = {int(client): said for client, said in told["clients"].items()}
    return Rounds(told["round"], arrays, told["rows"], clients)


def keep_own(folder: Path, round_: int, own: Arrays) -> None:
    """Write what stays with a client after a round. What no later round can need goes, and what a run left that had come further."""
    write(folder / f"round-{round_:05d}.safetensors", own, {"round": round_})
    kept = _kept(folder)
    needed = {round_, *[number for number in kept if number < round_][-1:]}  # the one before, if this round is killed
    for number, path in kept.items():
        if number not in needed:
            path.unlink()


def own_before(folder: Path, round_: int) -> Arrays:
    """What stayed with a client after the last round before this one in which it took part; nothing in its first."""
    earlier = [path for number, path in _kept(folder).items() if number < round_]
    return read(earlier[-1])[0] if earlier else {}


def _kept(folder: Path) -> dict[int, Path]:
    """The files of a client by round, in order."""
    found = {int(path.stem.partition("-")[2]): path for path in folder.glob("round-*.safetensors")}
    return dict(sorted(found.items()))


def write(path: Path, arrays: Arrays, told: dict[str, Any]) -> None:
    """Arrays by name and plain values as one safetensors file, atomically; equal ones give equal bytes."""
    header = canonical_json({**told, "sha256": _digest(told, arrays)})
    content = safetensors.numpy.save(arrays, {"state": header})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """What `write` wrote. UnsafeArtifactError for a file that is cut short or altered."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            told = json.loads((file.metadata() or {})["state"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if told.pop("sha256") != _digest(told, arrays):
            raise ValueError("its content does not match its SHA-256")
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnsafeArtifactError(
            f"{path} is not a whole state of a federation: {error}. Delete {path.parent} to begin anew."
        ) from error
    return arrays, told


def _digest(told: dict[str, Any], arrays: Arrays) -> str:
    digest = hashlib.sha256(canonical_json(told).encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
