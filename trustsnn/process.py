"""Settings of the whole process that make it faster. The command line calls these for its own process; a program of yours may."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Raise glibc's mmap and trim thresholds to 1 GiB (32 MiB before glibc 2.35, which takes no more) and 2 GiB; False where there is
    no glibc.

    glibc otherwise gives back every large block and faults it in again, at every layer of every step.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = any(libc.mallopt(_M_MMAP_THRESHOLD, most) for most in (1 << 30, 1 << 25))
        return kept and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def sleep_while_waiting() -> None:
    """Let OpenMP threads sleep at a barrier unless the user has set it otherwise. Before torch is imported.

    Spinning threads make an audit many times slower when other work uses the same cores; sleeping costs a little on idle
    ones (OMP_WAIT_POLICY=ACTIVE in the environment brings it back).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
