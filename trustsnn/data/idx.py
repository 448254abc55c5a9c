"""IDX files (the format of MNIST), raw or gzipped, and the two data sets that come in them."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from trustsnn.data.arrays import build
from trustsnn.data.dataset import Dataset
from trustsnn.data.problems import problem
from trustsnn.data.split import check_split

_LARGEST = 1 << 31
_MEND = "Fetch the file again."
_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array with `dimensions` axes that an IDX file holds.

    Layout: two zero bytes, type 0x08 (unsigned byte), the number of axes, each length as a big-endian uint32, the values.
    Raises DataError for a file that is missing, empty, truncated, longer than it says, or of another type.
    """
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _read(raw, path, dimensions)
            with gzip.open(raw) as stream:
                return _read(stream, path, dimensions)  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise problem(path, "an IDX file", "no such file", "Check --data-root or TRUSTSNN_DATA.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise problem(path, "a whole, readable IDX file", error, _MEND) from error


def _read(stream: BinaryIO, path: Path, dimensions: int) -> NDArray[np.uint8]:
    size = 4 + 4 * dimensions
    header = stream.read(size)
    if header[:4] != bytes((0, 0, 8, dimensions))[: len(header[:4])]:
        expected = f"magic 0000 08{dimensions:02x} (unsigned bytes, {dimensions} axes)"
        raise problem(path, expected, header[:4].hex(), "Check that images and labels are not exchanged.")
    if len(header) < size:
        raise problem(path, f"a header of {size} bytes", f"{len(header)} bytes", _MEND)
    shape = struct.unpack(f">{dimensions}I", header[4:])
    count = math.prod(shape)
    if count == 0 or count > _LARGEST:
        raise problem(path, f"1 to {_LARGEST} values", f"axes {list(shape)}", _MEND)
    content = stream.read(count + 1)
    if len(content) != count:
        got = f"{size + len(content)} bytes" if len(content) < count else f"more than {size + count} bytes"
        raise problem(path, f"{size + count} bytes for axes {list(shape)}", got, _MEND)
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def mnist(split: str, root: Path, download: bool = False) -> Dataset:
    """MNIST (LeCun et al. 1998): 60,000 + 10,000 images [1, 28, 28], from ROOT/MNIST/raw."""
    return _load("mnist", "MNIST", _DIGITS, split, root, download)


def fashion_mnist(split: str, root: Path, download: bool = False) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 images [1, 28, 28], from ROOT/FashionMNIST/raw."""
    return _load("fashion-mnist", "FashionMNIST", _FASHION, split, root, download)


def _load(name: str, folder: str, classes: tuple[str, ...], split: str, root: Path, download: bool) -> Dataset:
    check_split(split, name)
    prefix = "train" if split == "train" else "t10k"
    place = root / folder / "raw"
    wanted = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    if download and not all(_find(place, file) for file in wanted):
        from trustsnn.data.download import fetch

        fetch(name, root)
    paths = []
    for file in wanted:
        path = _find(place, file)
        if path is None:
            raise missing(name, [place / file, place / f"{file}.gz"])
        paths.append(path)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise problem(paths[1], f"{len(images)} labels, as many as there are images", len(labels), _MEND)
    return build(images[:, None], labels, name=name, split=split, classes=classes, scale=255)


def _find(place: Path, file: str) -> Path | None:
    return next((path for path in (place / file, place / f"{file}.gz") if path.is_file()), None)


def missing(name: str, looked: list[Path]) -> Exception:
    """The DataError for a data set that is not on the disk."""
    places = " or ".join(map(str, looked))
    mend = f"Point --data-root or TRUSTSNN_DATA at the folder that holds the data, or fetch {name} with --download."
    return problem(f"data set {name!r}", places, "no such file", mend)
