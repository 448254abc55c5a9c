"""What a run ran on: versions, threads, machine and the state of the sources."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import trustsnn
from trustsnn.errors import ConfigError
from trustsnn.kernels import describe

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "pyarrow",
    "scikit-learn",
    "safetensors",
    "numba",
    "torchattacks",
    "snntorch",
    "spikingjelly",
    "norse",
)


def set_threads(threads: int | None) -> None:
    """Use that many CPU threads; None leaves torch's own choice."""
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"Expected at least 1 thread, got {threads}.")
        torch.set_num_threads(threads)


def environment() -> dict[str, Any]:
    """The environment as plain values, without a time or a user's name."""
    return {
        "trustsnn": trustsnn.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "kernels": describe(),
        "packages": {"trustsnn": trustsnn.__version__, **_versions()},
        "git": _git(Path(trustsnn.__file__).resolve().parent.parent),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout that the code runs from; None for an installed package."""
    if not (root / "pyproject.toml").is_file():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
