"""What a killed federation goes on from: the server's state after a round, and what stays with a client. With a key these files are sealed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from trustsnn.canonical import canonical_json
from trustsnn.errors import ConfigError, RunError, UnsafeArtifactError
from trustsnn.federated.arrays import Arrays
from trustsnn.files import write_atomically
from trustsnn.keys import Key
from trustsnn.sealed_bytes import is_sealed, seal, unseal

STATE = "state.safetensors"


@dataclass
class Rounds:
    """The last finished round, the global model after it, a row of plain figures for each round so far, and what clients said of themselves
    when they were met: how many samples they train on and hold out."""

    round: int
    arrays: Arrays
    rows: list[dict[str, Any]] = field(default_factory=list)
    clients: dict[int, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path, identity: str, key: Key | None = None) -> None:
        """Write the state, atomically: a reader finds the round before or this one."""
        clients = {str(client): self.clients[client] for client in sorted(self.clients)}
        write(
            folder / STATE, self.arrays, {"round": self.round, "identity": identity, "rows": self.rows, "clients": clients}, key
        )


def resume(folder: Path, identity: str, key: Key | None = None) -> Rounds | None:
    """The state that is in `folder`, None where there is none.

    Raises:
        RunError: it is the state of another federation.
        UnsafeArtifactError: the file is cut short or altered, or the key is another.
        ConfigError: it is sealed and there is no key, or it is not sealed and there is one.
    """
    path = folder / STATE
    if not path.exists():
        return None
    arrays, told = read(path, key)
    if told.keys() != {"round", "identity", "rows", "clients"} or told["identity"] != identity:
        raise RunError(
            f"{folder} holds another federation. Choose another folder, or give the settings that this one was begun with."
        )
    clients = {int(client): said for client, said in told["clients"].items()}
    return Rounds(told["round"], arrays, told["rows"], clients)


def keep_own(folder: Path, round_: int, own: Arrays, key: Key | None = None) -> None:
    """Write what stays with a client after a round. What no later round can need goes, and what a run left that had come further."""
    write(folder / f"round-{round_:05d}.safetensors", own, {"round": round_}, key)
    kept = _kept(folder)
    needed = {round_, *[number for number in kept if number < round_][-1:]}  # the one before, if this round is killed
    for number, path in kept.items():
        if number not in needed:
            path.unlink()


def own_before(folder: Path, round_: int, key: Key | None = None) -> Arrays:
    """What stayed with a client after the last round before this one in which it took part; nothing in its first."""
    earlier = [path for number, path in _kept(folder).items() if number < round_]
    return read(earlier[-1], key)[0] if earlier else {}


def _kept(folder: Path) -> dict[int, Path]:
    """The files of a client by round, in order."""
    found = {int(path.stem.partition("-")[2]): path for path in folder.glob("round-*.safetensors")}
    return dict(sorted(found.items()))


def write(path: Path, arrays: Arrays, told: dict[str, Any], key: Key | None = None) -> None:
    """Arrays by name and plain values as one safetensors file, atomically; equal ones give equal bytes, unless a key seals them."""
    header = canonical_json({**told, "sha256": _digest(told, arrays)})
    content = safetensors.numpy.save(arrays, {"state": header})
    if key is not None:
        content = seal(content, key, _context(path))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read(path: Path, key: Key | None = None) -> tuple[Arrays, dict[str, Any]]:
    """What `write` wrote. UnsafeArtifactError for a file that is cut short or altered; ConfigError where one of file and key is missing the
    other."""
    content = path.read_bytes()
    if is_sealed(content):
        content = unseal(content, key, _context(path))
    elif key is not None:
        raise ConfigError(f"{path} is not sealed: leave the key out, or begin anew in another folder.")
    try:
        arrays = safetensors.numpy.load(content)
        told = json.loads(_metadata(content)["state"])
        if told.pop("sha256") != _digest(told, arrays):
            raise ValueError("its content does not match its SHA-256")
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnsafeArtifactError(
            f"{path} is not a whole state of a federation: {error}. Delete {path.parent} to begin anew."
        ) from error
    return arrays, told


def _metadata(content: bytes) -> dict[str, Any]:
    """Of a safetensors file whose tensors were read: the library gives them of a file on the disk alone."""
    size = int.from_bytes(content[:8], "little")
    found: dict[str, Any] = json.loads(content[8 : 8 + size])["__metadata__"]
    return found


def _context(path: Path) -> str:
    """A file of one client or round does not open in the place of another's."""
    return f"{path.parent.name}/{path.name}"


def _digest(told: dict[str, Any], arrays: Arrays) -> str:
    digest = hashlib.sha256(canonical_json(told).encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
