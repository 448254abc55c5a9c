"""What the values of an HDF5 data set are: their type, shape, place and compression."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

Refuse = Callable[[str], NoReturn]

_LONGEST = 1 << 48  # along one axis; more than any file may hold, little enough for products to stay exact
_IEEE = {  # size: offset, precision, exponent's place and size, mantissa's place and size, bias
    2: (0, 16, 10, 5, 0, 10, 15),
    4: (0, 32, 23, 8, 0, 23, 127),
    8: (0, 64, 52, 11, 0, 52, 1023),
}


class Space(NamedTuple):
    """The shape of a data set; a scalar has none."""

    shape: tuple[int, ...]

    @property
    def total(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Kind:
    """The type of one value: bytes that it takes, numpy's name of a number, how a string is stored ("fixed", "variable", "" for none),
    and whether it is a truth value."""

    size: int
    code: str = ""
    text: str = ""
    truth: bool = False

    def array(self, stored: bytes | memoryview, shape: tuple[int, ...], refuse: Refuse) -> NDArray[Any]:
        """The numbers in native byte order."""
        found = np.frombuffer(stored, self.code).reshape(shape)
        if self.truth:
            return found.astype(bool) if found.size == 0 or found.max() <= 1 else refuse("a truth value other than 0 and 1")
        return found.astype(found.dtype.newbyteorder("="))


class Layout(NamedTuple):
    """Where the values are: in the header itself, or at an address, whole or in chunks of a shape."""

    compact: bytes | None = None
    address: int = 0
    chunk: tuple[int, ...] = ()


class Filters(NamedTuple):
    """The filters of chunks, in the order in which they were applied."""

    names: tuple[str, ...] = ()

    def undo(self, stored: bytes, mask: int, chunk: tuple[int, ...], item: int, refuse: Refuse) -> bytes:
        """The bytes of a chunk; a bit of `mask` says that the filter was left out."""
        size = math.prod(chunk) * item
        for place, name in reversed(list(enumerate(self.names))):
            if mask >> place & 1:
                continue
            if name == "deflate":
                stream = zlib.decompressobj()
                try:
                    stored = stream.decompress(stored, size + 1)
                except zlib.error as error:
                    refuse(f"a chunk that does not inflate ({error})")
                if not stream.eof:
                    refuse("a chunk that inflates to more than its shape, or is cut short")
            elif len(stored) % item == 0:
                stored = np.frombuffer(stored, np.uint8).reshape(item, -1).T.tobytes()
        if len(stored) != size:
            refuse(f"a chunk of {len(stored):,} bytes for {list(chunk)} values of {item} bytes")
        return stored


def read_space(body: bytes, refuse: Refuse) -> Space:
    """A dataspace message."""
    version, rank = struct.unpack_from("<BB", body)
    if version not in (1, 2) or rank > 8 or (version == 2 and body[3] > 1):
        refuse(f"a dataspace of version {version} and rank {rank}")
    shape = struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)
    if any(n >= _LONGEST for n in shape):
        refuse(f"a claim of {list(shape)} values")
    return Space(shape)


def read_kind(body: bytes, refuse: Refuse) -> Kind:
    """A datatype message: IEEE floats, whole numbers, h5py's bool, and strings."""
    head, bits, size = body[0], int.from_bytes(body[1:4], "little"), struct.unpack_from("<I", body, 4)[0]
    kind, version = head & 15, head >> 4
    order = ">" if bits & 1 else "<"
    if version not in (1, 2, 3) or not 0 < size <= 1 << 20:
        refuse(f"a datatype of version {version} with {size:,} bytes")
    if kind == 0 and size in (1, 2, 4, 8) and struct.unpack_from("<HH", body, 8) == (0, 8 * size):
        return Kind(size, f"{order}{'i' if bits & 8 else 'u'}{size}")
    if kind == 1 and size in _IEEE and struct.unpack_from("<HHBBBBI", body, 8) == _IEEE[size] and not bits & 0x40:
        return Kind(size, f"{order}f{size}")
    if kind == 3:
        return Kind(size, text="fixed")
    if kind == 8 and size == 1 and bits == 2 and b"FALSE\0\0\0TRUE\0\0\0\0\0\1" in body:
        return Kind(1, "u1", truth=True)
    if kind == 9 and bits & 15 == 1 and size == 16:
        return Kind(16, text="variable")
    return refuse(f"values of a datatype of class {kind} with {size} bytes, where numbers and strings are known")


def read_layout(body: bytes, kind: Kind, space: Space, refuse: Refuse) -> Layout:
    """A data layout message, whose sizes fit the type and the shape."""
    version, how = struct.unpack_from("<BB", body)
    if version != 3 or how > 2:
        refuse(f"a data layout of version {version}, class {how}")
    if how == 0:
        size = struct.unpack_from("<H", body, 2)[0]
        return Layout(compact=body[4 : 4 + size])
    if how == 1:
        address, size = struct.unpack_from("<QQ", body, 2)
        if size != space.total * kind.size:
            refuse(f"{size:,} bytes for {list(space.shape)} values of {kind.size} bytes")
        return Layout(address=address)
    rank, address = struct.unpack_from("<BQ", body, 2)
    *chunk, item = struct.unpack_from(f"<{rank}I", body, 11)
    if len(chunk) != len(space.shape) or item != kind.size or 0 in chunk or not chunk:
        refuse(f"chunks of {chunk} values of {item} bytes for {list(space.shape)} values of {kind.size} bytes")
    return Layout(address=address, chunk=tuple(chunk))


def read_filters(body: bytes, refuse: Refuse) -> Filters:
    """A filter pipeline message of deflate and shuffle."""
    version, count = struct.unpack_from("<BB", body)
    at, names = 8, []
    known = {1: "deflate", 2: "shuffle"}
    for _ in range(count):
        number, length, _, values = struct.unpack_from("<HHHH", body, at)
        if version != 1 or number not in known:
            refuse(f"filter {number} of a pipeline of version {version}, where deflate and shuffle are known")
        names.append(known[number])
        at += 8 + length + 4 * (values + values % 2)
    return Filters(tuple(names))
