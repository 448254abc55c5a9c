"""What `trustsnn.process` sets, in a process of its own."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from trustsnn.process import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def fill():
    for _ in range(8):
        torch.ones(12 << 20)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (48 << 20))
"""


def faulted_in(what: str) -> float:
    """Blocks of 48 MiB that were faulted in while eight were filled, one after the other, after eight others."""
    done = subprocess.run([sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is of glibc")
def test_freed_memory_is_kept():
    assert faulted_in("plain") > 7
    assert faulted_in("keep") < 1
