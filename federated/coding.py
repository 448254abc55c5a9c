"""How the values of an update are written: all of them, the largest, or in a few bits each. Bytes on the wire: `trustsnn.federated.compression`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ProtocolError
from trustsnn.plugins import Entry
from trustsnn.settings import check_choice, check_settings, from_line, setting
from trustsnn.tensorfile import Layout

Vector = NDArray[np.float32]
Packed = dict[str, NDArray[Any]]

_HERE = "trustsnn.federated.coding"
SCHEMES = {
    "none": Entry(f"{_HERE}:Uncompressed", "every value in float32"),
    "top-k": Entry(f"{_HERE}:TopK", "the largest entries alone, what is left out goes into the next round (Stich 2018)"),
    "quantised": Entry(
        f"{_HERE}:Quantised", "a few bits a value, rounded at random without bias (Alistarh 2017), or to the nearest level"
    ),
}


class Scheme(Protocol):
    """A way to write the values of an update, one tensor after the other in the order of their names, as arrays; with its settings."""

    name: ClassVar[str]

    @property
    def feedback(self) -> bool:
        """Whether what the server does not see goes into the next round."""

    def fields(self, sizes: list[int]) -> Layout:
        """Name, dtype and shape of each array, for tensors with so many values."""

    def pack(self, values: Vector, sizes: list[int], draws: np.random.Generator) -> Packed:
        """The arrays by name, for finite values."""

    def unpack(self, packed: Packed, sizes: list[int]) -> Vector:
        """The values. ProtocolError for arrays that `pack` cannot have made."""


@dataclass(frozen=True)
class Uncompressed:
    """Every value in float32."""

    name: ClassVar[str] = "none"
    feedback: ClassVar[bool] = False

    def fields(self, sizes: list[int]) -> Layout:
        """See `Scheme`."""
        return [("values", "F32", (sum(sizes),))]

    def pack(self, values: Vector, sizes: list[int], draws: np.random.Generator) -> Packed:
        """See `Scheme`."""
        return {"values": values}

    def unpack(self, packed: Packed, sizes: list[int]) -> Vector:
        """See `Scheme`."""
        return packed["values"].astype(np.float32)


@dataclass(frozen=True)
class TopK:
    """The `share` of entries of the whole update with the largest magnitude, at least one, and where they are: 8 bytes each. Of equal ones
    the first."""

    name: ClassVar[str] = "top-k"
    feedback: ClassVar[bool] = True
    share: float = setting(0.01, high=1, above=True)

    def __post_init__(self) -> None:
        check_settings(self, "compression 'top-k'")

    def fields(self, sizes: list[int]) -> Layout:
        """See `Scheme`."""
        count = max(1, round(self.share * sum(sizes)))
        return [("places", "U32", (count,)), ("values", "F32", (count,))]

    def pack(self, values: Vector, sizes: list[int], draws: np.random.Generator) -> Packed:
        """See `Scheme`."""
        count = self.fields(sizes)[0][2][0]
        size = np.abs(values)
        least = np.partition(size, -count)[-count]
        above, equal = np.flatnonzero(size > least), np.flatnonzero(size == least)
        places = np.sort(np.concatenate([above, equal[: count - len(above)]]))
        return {"places": places, "values": values[places]}

    def unpack(self, packed: Packed, sizes: list[int]) -> Vector:
        """See `Scheme`."""
        places = packed["places"].astype(np.int64)
        if places[-1] >= sum(sizes) or bool((np.diff(places) <= 0).any()):
            raise ProtocolError(f"Expected ascending places below {sum(sizes)}, each once, got others.")
        found = np.zeros(sum(sizes), dtype=np.float32)
        found[places] = packed["values"]
        return found


@dataclass(frozen=True)
class Quantised:
    """Each value as one of 2^bits - 1 levels, evenly spaced from minus to plus the largest magnitude of its tensor.

    rounding: "stochastic" takes one of the two levels beside a value at random such that its mean is the value (Alistarh 2017, arXiv
    1610.02132, with the largest magnitude in place of the norm). It needs no feedback, and with few bits must not have it: the error may
    then be larger than the update, so that the residual would grow. "nearest" errs less and the same way each time, with feedback.
    """

    name: ClassVar[str] = "quantised"
    bits: int = setting(8, 2, 16)
    rounding: str = "stochastic"

    def __post_init__(self) -> None:
        check_settings(self, "compression 'quantised'")
        check_choice("compression 'quantised'", "rounding", self.rounding, ("stochastic", "nearest"))

    @property
    def feedback(self) -> bool:
        """See `Scheme`."""
        return self.rounding == "nearest"

    @property
    def top(self) -> int:
        """The highest level; the lowest is minus that."""
        return int(2 ** (self.bits - 1)) - 1

    def fields(self, sizes: list[int]) -> Layout:
        """See `Scheme`."""
        return [("scales", "F32", (len(sizes),)), ("levels", "U8", (-(-sum(sizes) * self.bits // 8),))]

    def pack(self, values: Vector, sizes: list[int], draws: np.random.Generator) -> Packed:
        """See `Scheme`."""
        scales = np.array([np.abs(values[part]).max(initial=0) for part in parts_of(sizes)], dtype=np.float32)
        levels = np.empty(len(values), dtype=np.uint16)
        for part, scale in zip(parts_of(sizes), scales, strict=True):
            exact = values[part].astype(np.float64) * (self.top / float(scale) if scale else 0.0)
            level = np.rint(exact) if self.rounding == "nearest" else np.floor(exact + draws.random(len(exact)))
            levels[part] = np.clip(level, -self.top, self.top) + self.top
        return {"scales": scales, "levels": _bits(levels, self.bits)}

    def unpack(self, packed: Packed, sizes: list[int]) -> Vector:
        """See `Scheme`."""
        scales, levels = packed["scales"], _whole(packed["levels"], self.bits, sum(sizes))
        spare = -sum(sizes) * self.bits % 8
        if packed["levels"][-1] & (2**spare - 1):
            raise ProtocolError("Expected zeros behind the last level, got others.")
        if not (np.isfinite(scales) & (scales >= 0)).all() or levels.max(initial=0) > 2 * self.top:
            raise ProtocolError(f"Expected scales that are finite and from 0, and levels up to {2 * self.top}, got others.")
        found = np.empty(len(levels), dtype=np.float32)
        for part, scale in zip(parts_of(sizes), scales, strict=True):
            found[part] = (levels[part].astype(np.float64) - self.top) * (float(scale) / self.top)
        return found


def _bits(levels: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """The lowest `bits` of each, one after the other, highest first."""
    wide = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
    return np.packbits(wide[:, 16 - bits :])


def _whole(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint16]:
    """What `_bits` made, as whole numbers."""
    wide = np.zeros((count, 16), dtype=np.uint8)
    wide[:, 16 - bits :] = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return np.packbits(wide, axis=1).view(">u2").reshape(count).astype(np.uint16)


def parts_of(sizes: list[int]) -> Iterator[slice]:
    """Where each tensor's values lie."""
    end = 0
    for size in sizes:
        start, end = end, end + size
        yield slice(start, end)


def parse(text: str) -> Scheme:
    """The scheme of a line such as "none", "top-k:0.01" or "quantised:4:rounding=nearest". ConfigError for any other."""
    found: Scheme = from_line("compression", SCHEMES, text, "top-k:share=0.01")
    return found
