"""The kernels in C++, through ctypes. `library()` is None where they were not built or do not load."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path


class Neuron(ctypes.Structure):
    """Mirrors `Neuron` of native.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("steps", "batch", "size", "threads", "flags", "surrogate")),
        *((name, ctypes.c_float) for name in ("leak", "threshold", "gain", "initial", "width")),
        *((name, ctypes.c_void_p) for name in ("start", "end")),
    ]


class Norm(ctypes.Structure):
    """Mirrors `Norm` of native.cpp."""

    _fields_ = [
        ("channels", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("scale", "shift")),
    ]


class Shape(ctypes.Structure):
    """Mirrors `Shape` of native.cpp."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "images", "height", "width", "inputs", "rows", "columns", "outputs", "kernel_h", "kernel_w", "stride_h",
                "stride_w", "up_h", "up_w", "top", "left", "dilation_h", "dilation_w", "groups", "block", "chunk", "threads",
            )
        ),
        ("dense_above", ctypes.c_double),
    ]  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library beside this file, its functions typed; None where there is none."""
    import torch  # noqa: F401  its OpenMP pool is to be there before the library looks for one

    for path in sorted(Path(__file__).parent.glob("_native*.so")):
        try:
            found = ctypes.CDLL(str(path))
        except OSError:
            continue
        pointer = ctypes.c_void_p
        found.trustsnn_lanes.argtypes = [ctypes.c_int]
        found.trustsnn_span.argtypes, found.trustsnn_span.restype = [pointer], ctypes.c_int64
        for name, given in (
            ("lif_forward", 5), ("lif_backward", 7), ("convolve", 5), ("convolve_fire", 7), ("convolve_bf16", 4), ("winograd", 5),
            ("winograd_bf16", 5), ("convolve_few", 5), ("pool", 3), ("pool_gradient", 3), ("weight_gradient", 4),
        ):  # fmt: skip
            function = getattr(found, f"trustsnn_{name}")
            function.argtypes, function.restype = [pointer] * given, None
        for name in ("pack", "pack_tiles", "pack_half_tiles"):
            getattr(found, f"trustsnn_{name}").argtypes = [pointer, pointer, ctypes.c_int64, pointer]
        count, real = ctypes.c_int64, ctypes.c_double
        found.trustsnn_channel_sums.argtypes = [pointer, *[count] * 3, pointer]
        found.trustsnn_channel_statistics.argtypes = [*[pointer] * 3, *[count] * 3, real, real, *[pointer] * 4]
        found.trustsnn_channel_slopes.argtypes = [*[pointer] * 5, *[count] * 3, pointer]
        found.trustsnn_normalised_backward.argtypes = [*[pointer] * 6, count, pointer, pointer]
        found.trustsnn_count.argtypes, found.trustsnn_count.restype = [pointer, count, count], count
        found.trustsnn_convolve.restype = ctypes.c_int64
        return found
    return None


def required() -> ctypes.CDLL:
    """The library, for callers that know it to be there because `trustsnn.kernels.accelerated` said "native"."""
    found = library()
    assert found is not None
    return found
