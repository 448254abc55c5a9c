"""Fewer bytes for an update, and the memory of what they leave out: error feedback.

A client compresses its update plus the residual that it kept, and keeps as residual what the server does not see of that (Seide 2014;
Stich 2018, arXiv 1809.07599; Karimireddy 2019, arXiv 1901.09847). Both sides know the scheme and the shapes of the network, so that every
byte of a payload has its place: what does not fit is refused before anything is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from trustsnn.canonical import sha256_of
from trustsnn.errors import ConfigError, DataError, ProtocolError
from trustsnn.federated.coding import Scheme, Vector, parts_of
from trustsnn.tensorfile import header, size_of

if TYPE_CHECKING:
    from trustsnn.federated.arrays import Arrays

Shapes = Mapping[str, tuple[int, ...]]

_DTYPES = {"F32": "<f4", "U32": "<u4", "U8": "u1"}


@dataclass(frozen=True)
class Compressed:
    """What a client sends and keeps.

    payload: its bytes are what travels. seen: the update that the server will make of them. residual: what the client adds to its next
    update; empty where the scheme has no error feedback. With feedback seen + residual is update + old residual: to the last bit with
    "top-k", up to float32's rounding of the one subtraction with "quantised".
    """

    payload: bytes
    seen: Arrays
    residual: Arrays


def compress(update: Arrays, scheme: Scheme, draws: np.random.Generator, residual: Arrays | None = None) -> Compressed:
    """Compress an update, float32 by name, in the order of the names.

    Args:
        draws: of this client and round; only rounding at random takes any.
        residual: what the last call returned; none or empty in the first round.

    Raises:
        ConfigError: the residual is not of the update's names and shapes.
        DataError: the update plus the residual is not finite.
    """
    shapes = shapes_of(update)
    sizes = _sizes(shapes)
    if residual and shapes_of(residual) != shapes:
        raise ConfigError("The residual is of another network than the update. Begin without one.")
    values = _flat(update)
    if residual and scheme.feedback:
        with np.errstate(over="ignore", invalid="ignore"):
            values = values + _flat(residual)
    if not np.isfinite(values).all():
        raise DataError(
            "Expected an update of finite values to compress, got NaN or infinity: the training diverged. Lower its rate."
        )
    packed = scheme.pack(values, sizes, draws)
    seen = scheme.unpack(packed, sizes)
    payload = _head(scheme, shapes) + b"".join(
        packed[name].astype(_DTYPES[dtype]).tobytes() for name, dtype, _ in scheme.fields(sizes)
    )
    return Compressed(payload, _shaped(seen, shapes), _shaped(values - seen, shapes) if scheme.feedback else {})


def decompress(payload: bytes, scheme: Scheme, shapes: Shapes) -> Arrays:
    """The update that `payload` stands for, float32 by name. Allocates as much as the network has values, whatever the bytes say.

    Raises:
        ProtocolError: not the bytes of this scheme and these shapes, or values that are not finite or out of range.
    """
    sizes, head = _sizes(shapes), _head(scheme, shapes)
    fields = scheme.fields(sizes)
    expected = payload_size(scheme, shapes)
    if len(payload) != expected or payload[: len(head)] != head:
        raise ProtocolError(
            f"Expected the {expected} bytes of an update of this network under the compression {scheme.name!r}, got {len(payload)} bytes that "
            "are not. Client and server need the same network and the same compression."
        )
    packed, at = {}, len(head)
    for name, dtype, shape in fields:
        packed[name] = np.frombuffer(payload, _DTYPES[dtype], math.prod(shape), at)
        at += size_of(dtype, shape)
    values = scheme.unpack(packed, sizes)
    if not np.isfinite(values).all():
        raise ProtocolError("Expected an update of finite values, got NaN or infinity.")
    return _shaped(values, shapes)


def payload_size(scheme: Scheme, shapes: Shapes) -> int:
    """Bytes of a payload: the same for every update of a network."""
    return len(_head(scheme, shapes)) + sum(size_of(dtype, shape) for _, dtype, shape in scheme.fields(_sizes(shapes)))


def shapes_of(update: Arrays) -> dict[str, tuple[int, ...]]:
    """The shapes of an update by name."""
    return {name: array.shape for name, array in update.items()}


def _head(scheme: Scheme, shapes: Shapes) -> bytes:
    """What a payload begins with: a safetensors header, whose names tell this scheme, its settings and these shapes from any other."""
    told = {"scheme": scheme.name, **asdict(scheme), "shapes": {name: list(shape) for name, shape in shapes.items()}}  # type: ignore[call-overload]
    key = sha256_of(told)[:16]
    return header([(f"{key}.{name}", dtype, shape) for name, dtype, shape in scheme.fields(_sizes(shapes))])


def _sizes(shapes: Shapes) -> list[int]:
    sizes = [math.prod(shapes[name]) for name in sorted(shapes)]
    if not sum(sizes):
        raise ConfigError("Expected an update with at least 1 value, got none.")
    return sizes


def _flat(arrays: Arrays) -> Vector:
    return np.concatenate([np.asarray(arrays[name], dtype=np.float32).reshape(-1) for name in sorted(arrays)])


def _shaped(values: Vector, shapes: Shapes) -> Arrays:
    parts = zip(sorted(shapes), parts_of(_sizes(shapes)), strict=True)
    return {name: values[part].reshape(shapes[name]).copy() for name, part in parts}
