"""Writes that survive a crash: temporary file, fsync, rename. A reader sees the old content or the new, never half."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trustsnn.errors import RunError


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError from writing `path` into one clear RunError (a full disk, a read-only folder)."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"Could not write {path}: {error.strerror or error}. Free space or choose another folder, then run the same "
            "command again: finished work is kept."
        ) from error


@contextmanager
def alone(folder: Path, busy: str) -> Iterator[None]:
    """Make the folder and hold a lock on it, which goes with the process. RunError with the text `busy` where another process has it."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(busy) from error
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename or a new file in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def beside(path: Path) -> Path:
    """A new name in the folder of `path`, for what is to become it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, fsync what it wrote, and rename it to `path`. Who may read it is up to the
    umask."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(path)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            write(temporary)
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write numpy arrays by name as a compressed .npz without a pickle, atomically. Equal arrays give equal bytes."""
    import numpy as np

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    write_atomically(path, write)


def append_line(path: Path, line: str) -> None:
    """Append one line and fsync it: when this returns, the line is on the disk."""
    with write_errors(path):
        new = not path.exists()
        with open(path, "ab") as stream:
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        if new:
            sync_folder(path.parent)
