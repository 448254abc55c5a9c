"""HDF5 files of the kind that NIR graphs come in, read with bounds on everything that a file may claim."""

from __future__ import annotations

import math
import struct
from bisect import bisect_right, insort
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.interop.hdf5_data import Filters, Kind, Layout, Space, read_filters, read_kind, read_layout, read_space

MAGIC = b"\x89HDF\r\n\x1a\n"
NOWHERE = 2**64 - 1  # the address of what is not stored
DEEPEST = 64  # groups in groups
MOST_PARTS = 60_000  # messages, links, blocks and strings
LONGEST_NAME = 1000  # bytes
SLACK, RATIO = 32 << 20, 16  # values may take this many bytes, and so many times the size of the file

Value = NDArray[Any] | str
Stored = bytes | memoryview


@dataclass
class Group:
    """A group: its members by name, and its attributes. A data set is an array (of numbers, bool or str) or, with one string, a str."""

    members: dict[str, Group | Value] = field(default_factory=dict)
    attributes: dict[str, Value] = field(default_factory=dict)


def read(path: Path | str) -> Group:
    """The root group of an HDF5 file as h5py writes it by default: superblock 0, groups with symbol tables, numbers and strings that are
    stored whole, compact or in chunks (deflate, shuffle).

    Nothing is executed. Each byte belongs to one structure at most, so that links in a circle, overlaps and names for the same thing
    are refused like addresses outside of the file, and work stays in proportion to its size.

    Raises:
        ConfigError: there is no such file.
        UnsafeArtifactError: the file is cut short, altered, claims more than it can hold, or uses another part of HDF5.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"Could not read {path}: {error.strerror}.") from error
    return parse(content, str(path))


def parse(content: bytes, name: str) -> Group:
    """As `read`, of the bytes of a file called `name`."""
    try:
        return _File(content, name).root()
    except (struct.error, ValueError, OverflowError, IndexError, KeyError, MemoryError) as error:
        raise UnsafeArtifactError(_problem(name, f"something that does not fit its place ({error})")) from error


def _problem(name: str, got: str) -> str:
    return f"{name}: expected a whole HDF5 file of a NIR graph, got {got}. Write it again with nir.write."


class _File:
    def __init__(self, content: bytes, name: str) -> None:
        self.content, self.name = content, name
        self.taken: list[tuple[int, int]] = []  # begin and end of what was read, in order
        self.parts = 0
        self.budget = SLACK + RATIO * len(content)
        self.heaps: dict[int, dict[int, bytes]] = {}

    def refuse(self, got: str) -> NoReturn:
        raise UnsafeArtifactError(_problem(self.name, got))

    def count(self, parts: int = 1) -> None:
        self.parts += parts
        if self.parts > MOST_PARTS:
            self.refuse(f"more than {MOST_PARTS:,} parts")

    def take(self, start: int, size: int) -> bytes:
        """Bytes that belong to nothing else."""
        end = start + size
        if start < 0 or size < 0 or end > len(self.content):
            self.refuse(f"an address outside of its {len(self.content):,} bytes ({start:,} to {end:,})")
        self.count()
        if size:
            place = bisect_right(self.taken, (start, len(self.content)))
            before = self.taken[place - 1][1] if place else 0
            after = self.taken[place][0] if place < len(self.taken) else len(self.content)
            if before > start or after < end:
                self.refuse(f"two structures in the same place, or links in a circle (at {start:,})")
            insort(self.taken, (start, end))
        return self.content[start:end]

    def signed(self, start: int, size: int, mark: bytes) -> bytes:
        """As `take`, for a structure that begins with `mark`."""
        found = self.take(start, size)
        if found[: len(mark)] != mark:
            self.refuse(f"{found[: len(mark)]!r} in place of {mark!r} (at {start:,})")
        return found

    def root(self) -> Group:
        start = self.signed(0, 96, MAGIC)
        if start[8] != 0 or start[13:15] != b"\x08\x08":
            self.refuse(f"superblock version {start[8]} with offsets of {start[13]} bytes, where h5py's default is 0 with 8")
        base, _, end, driver, _, header = struct.unpack_from("<6Q", start, 24)
        if base != 0 or driver != NOWHERE or end > len(self.content):
            self.refuse(f"{len(self.content):,} bytes of the {end:,} that it claims")
        found = self.thing(header, 0)
        return found if isinstance(found, Group) else self.refuse("no group at its root")

    def thing(self, address: int, depth: int) -> Group | Value:
        """The group or data set whose object header is at `address`."""
        if depth > DEEPEST:
            self.refuse(f"groups more than {DEEPEST} deep")
        messages = self.messages(address)
        kinds = {kind for kind, _ in messages}
        if kinds & {0x02, 0x06, 0x0A}:
            self.refuse("a group of HDF5 1.8 or later (libver='latest')")
        table = [body for kind, body in messages if kind == 0x11]
        attributes = dict(self.attribute(body) for kind, body in messages if kind == 0x0C)
        if table:
            return Group({name: self.thing(place, depth + 1) for name, place in self.links(table[0])}, attributes)
        return self.values(dict(messages))

    def messages(self, address: int) -> list[tuple[int, bytes]]:
        """Type and body of the messages of an object header, continuation blocks included."""
        version, _, total, _, size = struct.unpack("<BBHII", self.take(address, 12))
        if version != 1:
            self.refuse(f"an object header of version {version} (at {address:,})")
        found: list[tuple[int, bytes]] = []
        blocks = [self.take(address + 16, size)]
        while blocks:
            block, at = blocks.pop(0), 0
            while at + 8 <= len(block) and len(found) < total:
                kind, size, flags = struct.unpack_from("<HHB", block, at)
                body = block[at + 8 : at + 8 + size]
                if len(body) < size or flags & 2:
                    self.refuse("a message that is cut short, or shared with another object")
                self.count()
                found.append((kind, body))
                if kind == 0x10:
                    blocks.append(self.take(*struct.unpack_from("<QQ", body)))
                at += 8 + size
        return found

    def links(self, table: bytes) -> list[tuple[str, int]]:
        """Names and object headers of a group's members."""
        tree, heap = struct.unpack_from("<QQ", table)
        size, _, place = struct.unpack_from("<QQQ", self.signed(heap, 32, b"HEAP"), 8)
        names = self.take(place, size)
        found: dict[str, int] = {}
        for leaf in self.leaves(tree, 0, 8):
            symbols = struct.unpack("<H", self.signed(leaf[1], 8, b"SNOD")[6:])[0]
            entries = self.take(leaf[1] + 8, 40 * symbols)
            for at in range(0, len(entries), 40):
                name_at, header, cache = struct.unpack_from("<QQI", entries, at)
                end = names.index(b"\0", name_at, name_at + LONGEST_NAME)
                name = names[name_at:end].decode()
                if cache == 2 or name in found or not name:
                    self.refuse(f"a soft link, or two members called {name!r}")
                self.count()
                found[name] = header
        return list(found.items())

    def leaves(self, address: int, kind: int, key: int, above: int = 17) -> list[tuple[bytes, int]]:
        """Key and address of each child of a B-tree's lowest level."""
        head = self.signed(address, 24, b"TREE")
        level, used = head[5], struct.unpack_from("<H", head, 6)[0]
        if head[4] != kind or level >= above:
            self.refuse(f"a B-tree node of kind {head[4]} and level {level} below level {above}")
        body = self.take(address + 24, used * (key + 8) + key)
        self.count(used)
        children = [
            (body[at : at + key], struct.unpack_from("<Q", body, at + key)[0]) for at in range(0, used * (key + 8), key + 8)
        ]
        if level == 0:
            return children
        return [leaf for _, child in children for leaf in self.leaves(child, kind, key, level)]

    def attribute(self, body: bytes) -> tuple[str, Value]:
        version, _, *sizes = struct.unpack_from("<BBHHH", body)
        if version not in (1, 2, 3):
            self.refuse(f"an attribute of version {version}")
        at, parts = 9 if version == 3 else 8, []
        for size in sizes:
            parts.append(body[at : at + size])
            at += size + (-size % 8 if version == 1 else 0)
        kind, space = read_kind(parts[1], self.refuse), read_space(parts[2], self.refuse)
        self.spend(kind, space)
        return parts[0].rstrip(b"\0").decode(), self.shaped(body[at : at + space.total * kind.size], kind, space)

    def values(self, messages: dict[int, bytes]) -> Value:
        """A data set."""
        if not {0x01, 0x03, 0x08} <= messages.keys():
            self.refuse("an object that is neither a group nor a data set")
        kind, space = read_kind(messages[0x03], self.refuse), read_space(messages[0x01], self.refuse)
        layout = read_layout(messages[0x08], kind, space, self.refuse)
        self.spend(kind, space)
        filters = read_filters(messages[0x0B], self.refuse) if 0x0B in messages else Filters()
        size = space.total * kind.size
        stored: Stored
        if layout.compact is not None:
            stored = layout.compact[:size]
        elif size == 0:
            stored = b""
        elif layout.address == NOWHERE:
            self.refuse("a data set whose values were never written")
        elif layout.chunk:
            stored = self.chunks(layout, kind, space, filters)
        else:
            stored = self.take(layout.address, size)
        return self.shaped(stored, kind, space)

    def chunks(self, layout: Layout, kind: Kind, space: Space, filters: Filters) -> memoryview:
        """The bytes of an array from those of its chunks; chunks at the border hang over."""
        shape, chunk, item = space.shape, layout.chunk, kind.size
        numbers = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
        self.spend(kind, Space(chunk))
        entries = self.leaves(layout.address, 1, 16 + 8 * len(shape))
        whole, seen = np.empty((*shape, item), np.uint8), set()
        for key, address in entries:
            size, mask, *offset, _ = struct.unpack(f"<II{len(shape)}QQ", key)
            if any(o % c or o >= n for o, c, n in zip(offset, chunk, shape, strict=True)):
                self.refuse(f"a chunk at {offset} of {list(shape)} values")
            seen.add(tuple(offset))
            content = filters.undo(self.take(address, size), mask, chunk, item, self.refuse)
            part = whole[tuple(slice(o, o + c) for o, c in zip(offset, chunk, strict=True))]
            part[...] = np.frombuffer(content, np.uint8).reshape(*chunk, item)[tuple(slice(n) for n in part.shape[:-1])]
        if len(seen) != math.prod(numbers) or len(entries) != len(seen):
            self.refuse(f"{len(seen)} chunks of {math.prod(numbers)}")
        return whole.reshape(-1).data

    def spend(self, kind: Kind, space: Space) -> None:
        """Count the bytes of a data set against what the file may hold in all."""
        self.budget -= max(kind.size, 16 if kind.text else 0) * space.total
        if self.budget < 0:
            self.refuse(
                f"a claim of {list(space.shape)} values of {kind.size} bytes, which its {len(self.content):,} bytes are too small for "
                f"(in all {SLACK >> 20} MiB and {RATIO} times the size of the file)"
            )

    def shaped(self, stored: Stored, kind: Kind, space: Space) -> Value:
        """Stored bytes as an array, or a string."""
        if len(stored) != space.total * kind.size:
            self.refuse(f"{len(stored):,} bytes for {list(space.shape)} values of {kind.size} bytes")
        if not kind.text:
            return kind.array(stored, space.shape, self.refuse)
        self.count(space.total)
        places = range(0, len(stored), kind.size)
        if kind.text == "variable":
            texts = [self.text(*struct.unpack_from("<IQI", stored, at)) for at in places]
        else:
            texts = [bytes(stored[at : at + kind.size]).split(b"\0")[0].decode() for at in places]
        if not space.shape:
            return texts[0]
        self.spend(Kind(4 * max(map(len, texts), default=0)), space)
        return np.array(texts, dtype=str).reshape(space.shape)

    def text(self, size: int, address: int, index: int) -> str:
        """A string of a global heap."""
        if size == 0:
            return ""
        if address not in self.heaps:
            whole = struct.unpack_from("<Q", self.signed(address, 16, b"GCOL"), 8)[0]
            self.heaps[address] = self.collection(self.take(address + 16, whole - 16))
        found = self.heaps[address][index]
        self.budget -= size
        if len(found) < size or self.budget < 0:
            self.refuse(f"a string of {size:,} bytes in {len(found):,}")
        return found[:size].decode()

    def collection(self, block: bytes) -> dict[int, bytes]:
        objects, at = {}, 0
        while at + 16 <= len(block):
            index, _, _, size = struct.unpack_from("<HHIQ", block, at)
            if index == 0:
                break
            self.count()
            if at + 16 + size > len(block):
                self.refuse("an object that leaves its heap")
            objects[index] = block[at + 16 : at + 16 + size]
            at += 16 + size + -size % 8
        return objects
