"""Kernels: what a spiking layer and an event-driven convolution cost most of their time in, several times over.

Each operation has up to four implementations. `native` is C++, built at installation where a compiler is there; `numba` is
compiled at the first use; `torch` is plain PyTorch and always there; `triton` serves tensors on a CUDA device. The best one
that is there is used, unless TRUSTSNN_KERNELS names another. All make the same spikes; tests hold each to the plain
reference, forward and backward.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from trustsnn.errors import ConfigError

if TYPE_CHECKING:
    import torch

BACKENDS = ("native", "numba", "torch")

_wanted: str | None = None


@cache
def available() -> tuple[str, ...]:
    """The implementations for the CPU that are there, the best first."""
    from trustsnn.kernels import native

    found = {
        "native": native.library() is not None,
        "numba": importlib.util.find_spec("numba") is not None,
        "torch": True,
    }
    return tuple(name for name in BACKENDS if found[name])


@cache
def default() -> str:
    """The implementation that TRUSTSNN_KERNELS names, or the best one; it is read once, because every layer asks in every step."""
    return _known(os.environ.get("TRUSTSNN_KERNELS") or available()[0])


def backend() -> str:
    """The implementation in use on the CPU: "native", "numba" or "torch"."""
    return _wanted or default()


def _known(name: str) -> str:
    if name not in available():
        raise ConfigError(f"Expected kernels (TRUSTSNN_KERNELS) of {', '.join(available())} here, got {name!r}.")
    return name


def describe() -> str:
    """The implementation in use and, for the native one, its instruction set: what the last bits of a result depend on."""
    from trustsnn.kernels import native

    known = native.library()
    if backend() != "native" or known is None:
        return backend()
    names = {16: "AVX-512", 8: "AVX2", 4: "plain"}
    return f"native ({names[known.trustsnn_lanes(0)]})"


@contextmanager
def using(name: str) -> Iterator[None]:
    """Inside this block the kernels are those of `name`."""
    global _wanted
    before = _wanted
    _wanted = _known(name)
    try:
        yield
    finally:
        _wanted = before


def accelerated(tensor: torch.Tensor) -> str | None:
    """The implementation that serves `tensor`, or None where plain torch does: "native" or "numba" for float32 on the CPU,
    "triton" for up to float32 on a CUDA device with Triton installed."""
    import torch

    if tensor.is_cuda and tensor.dtype != torch.float64:
        return "triton" if importlib.util.find_spec("triton") is not None else None
    known = backend()
    return known if tensor.is_cpu and tensor.dtype == torch.float32 and known != "torch" else None
