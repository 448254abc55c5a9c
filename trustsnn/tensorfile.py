"""Safetensors files as streams: header and data in blocks, so that memory does not grow with the file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import UnsafeArtifactError
from trustsnn.files import write_atomically

BLOCK = 1 << 20
WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1), **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4), **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}  # fmt: skip
"""Bytes of a value by its dtype, as the format spells it."""
_LARGEST_HEADER = 100_000_000  # as the safetensors library has it

Layout = Sequence[tuple[str, str, tuple[int, ...]]]
"""Name, dtype and shape of each tensor, in the order of the data."""


def size_of(dtype: str, shape: Iterable[int]) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * WIDTHS[dtype]


def header(layout: Layout) -> bytes:
    """What comes before the data in the file that the safetensors library writes for these tensors."""
    entries: dict[str, Any] = {}
    end = 0
    for name, dtype, shape in layout:
        start, end = end, end + size_of(dtype, shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(stream: BinaryIO) -> tuple[Layout, bytes]:
    """The layout and the bytes of the header that `stream` starts with; leaves it where the data begins.

    Raises:
        UnsafeArtifactError: it is not byte for byte what `header` makes of its tensors, so that nothing hides between them.
    """
    length = int.from_bytes(stream.read(8), "little")
    found = stream.read(min(length, _LARGEST_HEADER))
    try:
        entries = json.loads(found)
        order = sorted(entries, key=lambda name: tuple(entries[name]["data_offsets"]))
        layout = [(name, entries[name]["dtype"], tuple(entries[name]["shape"])) for name in order]
        whole = length.to_bytes(8, "little") + found
        if header(layout) == whole:
            return layout, whole
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UnsafeArtifactError(
        f"{getattr(stream, 'name', 'The stream')} does not begin as the safetensors library writes a file without metadata. "
        "Load the model and save it again."
    )


def blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of a stream in blocks."""
    while block := stream.read(BLOCK):
        yield block


def flipped(pieces: Iterable[bytes], bits: NDArray[np.int64]) -> Iterator[bytes]:
    """The pieces of a file with the bits at these ascending places flipped. A place is 8 times the byte plus the bit, counted from
    the lowest. Twice the same gives the file back."""
    start = 0
    for piece in pieces:
        low, high = np.searchsorted(bits, [8 * start, 8 * (start + len(piece))])
        if high > low:
            changed = np.frombuffer(piece, np.uint8).copy()
            places = bits[low:high]
            np.bitwise_xor.at(changed, places // 8 - start, np.left_shift(1, places % 8).astype(np.uint8))
            yield changed.tobytes()
        else:
            yield piece
        start += len(piece)


def write_pieces(path: Path, pieces: Iterable[bytes]) -> str:
    """Write a file atomically, piece by piece; its SHA-256 (hex)."""
    digest = hashlib.sha256()

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            for piece in pieces:
                digest.update(piece)
                stream.write(piece)

    write_atomically(path, write)
    return digest.hexdigest()
