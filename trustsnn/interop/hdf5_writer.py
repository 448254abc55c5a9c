"""A tree of groups, arrays and strings as an HDF5 file that h5py reads: superblock 0, values stored whole, nothing that changes from one
writing to the next."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.interop.hdf5 import MAGIC, NOWHERE

Tree = Mapping[str, "Tree | NDArray[Any] | str"]

_LEAF = 4  # half of the links in a symbol node
_IEEE = {4: (0x1F20, 0, 32, 23, 8, 0, 23, 127), 8: (0x3F20, 0, 64, 52, 11, 0, 52, 1023)}


def encode(tree: Tree) -> bytes:
    """The bytes of a file whose root group has these members: groups, arrays of float32, float64 or int64, strings and arrays of them."""
    widest = max(_widths(tree))
    nodes = max(16, -(-widest // (4 * _LEAF)))  # half of the symbol nodes in a B-tree of one level
    file = _File(nodes)
    header, tables = file.group(tree)
    start = MAGIC + struct.pack("<8B2HI", 0, 0, 0, 0, 0, 8, 8, 0, _LEAF, nodes, 0)
    start += struct.pack("<4Q", 0, NOWHERE, len(file.content), NOWHERE) + struct.pack("<QQII", 0, header, 1, 0) + tables
    file.content[: len(start)] = start
    return bytes(file.content)


def _widths(tree: Tree) -> list[int]:
    return [len(tree)] + [width for member in tree.values() if isinstance(member, Mapping) for width in _widths(member)]


class _File:
    def __init__(self, nodes: int) -> None:
        self.content = bytearray(96)
        self.nodes = nodes

    def add(self, block: bytes) -> int:
        """Append a block; its address, a multiple of 8."""
        self.content += bytes(-len(self.content) % 8)
        address = len(self.content)
        self.content += block
        return address

    def group(self, tree: Tree) -> tuple[int, bytes]:
        """Address of a group's object header, and the addresses of its B-tree and heap."""
        names, entries = bytearray(8), []
        for name in sorted(tree, key=str.encode):
            member, place = tree[name], len(names)
            names += name.encode() + b"\0"
            names += bytes(-len(names) % 8)
            if isinstance(member, Mapping):
                header, tables = self.group(member)
                entries.append((place, struct.pack("<QQII", place, header, 1, 0) + tables))
            else:
                entries.append((place, struct.pack("<QQII16x", place, self.dataset(member), 0, 0)))
        segment = self.add(bytes(names))
        heap = self.add(struct.pack("<4sB3xQQQ", b"HEAP", 0, len(names), 1, segment))  # 1: no free place in it
        children = b""
        for at in range(0, len(entries), 2 * _LEAF):
            part = entries[at : at + 2 * _LEAF]
            symbols = struct.pack("<4sBBH", b"SNOD", 1, 0, len(part)) + b"".join(entry for _, entry in part)
            children += struct.pack("<QQ", self.add(symbols.ljust(8 + 80 * _LEAF, b"\0")), part[-1][0])
        used = -(-len(entries) // (2 * _LEAF))
        node = struct.pack("<4sBBHQQQ", b"TREE", 0, 0, used, NOWHERE, NOWHERE, 0) + children
        tables = struct.pack("<QQ", self.add(node.ljust(24 + 8 * (4 * self.nodes + 1), b"\0")), heap)
        return self.header([(0x11, tables)]), tables

    def dataset(self, value: NDArray[Any] | str) -> int:
        """Address of a data set's object header."""
        array = np.asarray(value.encode() or b"\0") if isinstance(value, str) else np.asarray(value)
        if array.dtype.kind == "U":
            array = np.char.encode(array, "utf-8")
        stored = array.astype(array.dtype.newbyteorder("<")).tobytes()
        address = self.add(stored) if stored else NOWHERE
        space = struct.pack("<BBB5x", 1, array.ndim, 0) + struct.pack(f"<{array.ndim}Q", *array.shape)
        layout = struct.pack("<BBQQ", 3, 1, address, len(stored))
        fill = struct.pack("<4B", 2, 1, 0, 0)
        return self.header([(0x01, space), (0x03, _datatype(array.dtype)), (0x05, fill), (0x08, layout)])

    def header(self, messages: list[tuple[int, bytes]]) -> int:
        body = b""
        for kind, message in messages:
            message += bytes(-len(message) % 8)
            body += struct.pack("<HHB3x", kind, len(message), 0) + message
        return self.add(struct.pack("<BBHII4x", 1, 0, len(messages), 1, len(body)) + body)


def _datatype(dtype: np.dtype[Any]) -> bytes:
    size = dtype.itemsize
    if dtype.kind == "f":
        bits, *places = _IEEE[size]
        return struct.pack("<I", 0x11 | bits << 8) + struct.pack("<IHHBBBBI", size, *places)
    if dtype.kind == "i":
        return struct.pack("<IIHH", 0x10 | 8 << 8, size, 0, 8 * size)
    return struct.pack("<II", 0x13 | 0x11 << 8, size)  # UTF-8, padded with zeros
