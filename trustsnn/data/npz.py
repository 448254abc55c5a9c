"""Arrays in an .npz file, read without ever unpickling."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.data.arrays import from_arrays
from trustsnn.data.dataset import Dataset, Domain
from trustsnn.data.problems import problem
from trustsnn.errors import UnsafeArtifactError


def load_npz(path: Path, split: str, *, domain: Domain | None = None, max_count: int | None = None) -> Dataset:
    """The arrays x_SPLIT and y_SPLIT of an .npz file, or x and y, which are one set: its `split` is then 'all'.

    An array `classes` of strings names the classes. The domain is 'image' unless told or unless x has 5 axes (see
    `infer_domain`). Raises DataError for a missing or broken file or array, UnsafeArtifactError for a pickle or an object array.
    """
    if not path.is_file():
        raise problem(path, "an .npz file", "no such file", "Check the path.")
    with open(path, "rb") as stream:
        start = stream.read(2)
    if start[:1] == b"\x80":
        raise _unsafe(path, "a pickle")
    if start != b"PK":
        raise problem(path, "an .npz file (a zip archive)", f"a file that begins with {start.hex()}", "Save it with numpy.savez.")
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
            suffix = f"_{split}" if {f"x_{split}", f"y_{split}"} <= arrays else ""
            if not {f"x{suffix}", f"y{suffix}"} <= arrays:
                expected = f"arrays x_{split} and y_{split}, or x and y"
                raise problem(path, expected, sorted(arrays), "Save it with numpy.savez(path, x=x, y=y).")
            x, y = (_read(archive, name + suffix, path) for name in "xy")
            classes = tuple(map(str, _read(archive, "classes", path))) if "classes" in arrays else None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error) as error:
        raise problem(path, "a whole .npz file", error, "Save it again with numpy.savez.") from error
    return from_arrays(
        x,
        y,
        name=path.stem,
        split=split if suffix else "all",
        classes=classes,
        domain=domain or infer_domain(x),
        max_count=max_count,
    )


def infer_domain(x: NDArray[Any]) -> Domain:
    """'image' unless there are 5 axes [N, T, 2, H, W]: then 'events-binary' where no value is above 1, else 'events-count'."""
    if x.ndim != 5 or x.dtype.kind not in "biuf":
        return "image"
    return "events-count" if bool((x > 1).any()) else "events-binary"


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    """One array. Its header is judged before its content is read, so that no pickle is ever loaded."""
    entry = archive.getinfo(f"{name}.npy")
    where = f"{path}, array {name}"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise problem(where, "an array stored or deflated", f"compression {entry.compress_type}", "Save it with numpy.savez.")
    try:
        with archive.open(entry) as stream:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
            if dtype.hasobject:
                raise _unsafe(where, "Python objects (a pickle)")
            held = entry.file_size - stream.tell()
            needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if held != needed:
                raise problem(where, f"{needed} bytes for shape {list(shape)}", held, "Save it again with numpy.savez.")
        with archive.open(entry) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except ValueError as error:
        raise problem(where, "an array in numpy's format", error, "Save it again with numpy.savez.") from error


def _unsafe(where: object, got: str) -> UnsafeArtifactError:
    return UnsafeArtifactError(
        f"{where}: expected arrays of numbers, got {got}, which could run code when it is read; it was not read. "
        "Save plain arrays with numpy.savez."
    )
