"""Updates as one vector of integers modulo 2^ring, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ConfigError, ProtocolError
from trustsnn.federated.secure.settings import Settings

if TYPE_CHECKING:
    from trustsnn.federated.arrays import Array

Vector = NDArray[Any]  # of uint32 or uint64, little-endian
Layout = dict[str, tuple[int, ...]]


def layout_of(arrays: Mapping[str, Array]) -> Layout:
    """The shape of each array by name, in the order of the names."""
    return {name: arrays[name].shape for name in sorted(arrays)}


def size_of(layout: Mapping[str, tuple[int, ...]]) -> int:
    """How many values the arrays of this layout hold."""
    return sum(math.prod(shape) for shape in layout.values())


def flatten(arrays: Mapping[str, Array]) -> NDArray[np.float32]:
    """All values as one float32 vector: the arrays in the order of their names, each in C order."""
    return np.concatenate([np.zeros(0, np.float32), *(np.ravel(arrays[name]) for name in sorted(arrays))], dtype=np.float32)


def unflatten(vector: NDArray[Any], layout: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """The arrays of a vector of `flatten`; views of it."""
    arrays, start = {}, 0
    for name in sorted(layout):
        size = math.prod(layout[name])
        arrays[name] = vector[start : start + size].reshape(layout[name])
        start += size
    return arrays


def quantise(vector: NDArray[Any], settings: Settings, weight: int = 1, generator: np.random.Generator | None = None) -> Vector:
    """weight / max_weight * clip(vector) in units of `settings.step`, and then the weight, modulo 2^ring.

    Args:
        vector: [m], finite. Values outside [-clip, clip] are clipped.
        weight: 0 to `settings.max_weight`.
        generator: where rounding is stochastic (unbiased, off by less than a step); None rounds to the nearest (off by at most half a
            step, up to float64).

    Returns:
        [m + 1], little-endian uint32 or uint64.

    Raises:
        ConfigError: a value that is not finite, or a weight out of range.
    """
    if type(weight) is not int or not 0 <= weight <= settings.max_weight:
        raise ConfigError(f"Expected a weight from 0 to max_weight = {settings.max_weight}, got {weight!r}.")
    x = vector.astype(np.float64)
    if not np.isfinite(x).all():
        raise ConfigError(
            f"Expected an update of finite values, got {np.count_nonzero(~np.isfinite(x))} of {x.size} that are not."
        )
    np.clip(x, -settings.clip, settings.clip, out=x)
    x *= weight / settings.max_weight / settings.step
    if generator is None:
        np.rint(x, out=x)
    else:
        x += generator.random(x.size)
        np.floor(x, out=x)
    np.clip(x, -settings.levels, settings.levels, out=x)
    integers = np.empty(x.size + 1, np.int64)
    integers[:-1], integers[-1] = x, weight
    return integers.astype(f"<u{settings.ring // 8}")


def dequantise(total: Vector, settings: Settings, clients: int) -> tuple[NDArray[np.float64], int]:
    """The sum of the vectors of `quantise` of so many clients, as values [m] in float64 and the sum of the weights.

    Raises:
        ProtocolError: no `clients` vectors of these settings have such a sum: a vector or a mask was wrong.
    """
    signed = total.view(f"<i{settings.ring // 8}")
    values, weight = signed[:-1], int(signed[-1])
    bound = clients * settings.levels
    if not 0 <= weight <= clients * settings.max_weight or (values.size and (values.max() > bound or values.min() < -bound)):
        raise ProtocolError(
            f"The sum is outside of what {clients} clients can reach: a client sent a vector or a share that is not as agreed. Discard "
            "this round."
        )
    return values.astype(np.float64) * settings.step, weight
