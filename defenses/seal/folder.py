"""Whole checkpoint folders sealed, unsealed and verified, in memory that does not grow with the model."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from trustsnn import checkpoint, sealed
from trustsnn.errors import ConfigError
from trustsnn.files import beside, sync_folder, write_errors
from trustsnn.keys import Key
from trustsnn.tensorfile import write_pieces


def seal(
    model: Path | str,
    out: Path | str,
    key: Key,
    *,
    signing: Ed25519PrivateKey | None = None,
    bits: NDArray[np.int64] | None = None,
) -> Path:
    """Seal the checkpoint folder `model` into the new folder `out`, which appears whole or not at all. `model` stays as it is.

    Args:
        signing: signs the manifest.
        bits: places of the bits to seal, all others staying plain; see `trustsnn.defenses.seal.search`. None: everything.

    Raises:
        ConfigError: `model` is no plain checkpoint folder, or `out` is there already.
        UnsafeArtifactError: a file of `model` is a pickle, altered or truncated.
    """
    folder = Path(model)
    config = checkpoint.check_folder(folder)
    with _new_folder(Path(out)) as new, open(folder / sealed.WEIGHTS, "rb") as weights:
        sealed.write(new, config, weights, key, signing=signing, bits=bits)
    return Path(out)


def unseal(folder: Path | str, out: Path | str, key: Key, *, public: Ed25519PublicKey | None = None) -> Path:
    """Write the plain checkpoint of a sealed folder into the new folder `out`, byte for byte as it was; whole or not at all.

    Raises:
        ConfigError: `folder` is not sealed, or `out` is there already.
        UnsafeArtifactError: a wrong key, anything that was altered, or not signed with the private half of `public`.
    """
    found = _open(folder)
    if public is not None:
        found.check_signer(public)
    with _new_folder(Path(out)) as new:
        digest = write_pieces(new / sealed.WEIGHTS, found.pieces(key))
        write_pieces(new / sealed.CONFIG, [found.config])
        checkpoint.write_manifest(new, digest, found.config)
    return Path(out)


@dataclass(frozen=True)
class Verified:
    """What `verify` has found true: `kind` "weights" or "bits", tensors or bits in `count`, the signer's public key (hex) if the
    manifest is signed, and whether every piece was opened with the key."""

    kind: str
    count: int
    signer: str | None
    opened: bool


def verify(folder: Path | str, *, key: Key | None = None, public: Ed25519PublicKey | None = None) -> Verified:
    """Check a sealed folder without writing anything: the signature, the hashes of its files and, with the key, every piece.

    Raises:
        ConfigError: neither a key nor a public key, or `folder` is not sealed.
        UnsafeArtifactError: anything that does not hold.
    """
    if key is None and public is None:
        raise ConfigError(
            "Expected a key or a public key: without either, whoever altered a folder could make a manifest that fits."
        )
    found = _open(folder)
    if public is not None:
        found.check_signer(public)
    if key is None:
        found.check_files()
    else:
        for _ in found.pieces(key):
            pass
    description = found.manifest.description
    tensors = description.tensors
    count = len(tensors) if description.kind == "weights" else tensors[0].shape[0]
    return Verified(description.kind, count, description.signer, key is not None)


def _open(folder: Path | str) -> sealed.Sealed:
    path = Path(folder)
    if not sealed.is_sealed(path):
        raise ConfigError(f"Expected a sealed checkpoint folder, as `trustsnn seal` writes it, at {path}.")
    return sealed.Sealed.open(path)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it at the end, and goes if anything fails or asks the process to end."""
    if out.exists():
        raise ConfigError(f"{out} is there already. Choose another folder, or remove it.")
    with write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        new = beside(out)
        new.mkdir()
    try:
        with _signals_raise():
            yield new
            with write_errors(out):
                new.rename(out)
                sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the process by an exception, as Ctrl-C does, so that it can tidy up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
