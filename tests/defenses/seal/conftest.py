"""A checkpoint with a tensor of every kind, sealed, and what watches the disk for plain bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from trustsnn.checkpoint import write_folder
from trustsnn.defenses.seal import seal
from trustsnn.keys import Key


@pytest.fixture(scope="session")
def key() -> Key:
    return Key(bytes(range(1, 33)))


@pytest.fixture(scope="session")
def other_key() -> Key:
    return Key(bytes(range(2, 34)))


@pytest.fixture(scope="session")
def signing() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


class Tensors(nn.Module):
    """A module whose state is the given tensors."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


@pytest.fixture(scope="session")
def module_of():
    """A function that makes a module of tensors by name."""
    return Tensors


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    """A plain checkpoint folder. Do not change it.

    Its tensors: float32, bfloat16, int64, bool, float64, int8, an empty tensor, a scalar, and one of three pieces."""
    draws = torch.Generator().manual_seed(0)
    tensors = Tensors(
        weight=torch.randn(7, 5, generator=draws),
        sixteen=torch.randn(9, generator=draws).bfloat16(),
        count=torch.tensor(7),
        mask=torch.rand(11, generator=draws) > 0.5,
        empty=torch.zeros(0, 3),
        exact=torch.randn(3, generator=draws, dtype=torch.float64),
        small=torch.randint(-128, 127, (5,), generator=draws).to(torch.int8),
        long=torch.randn(600_000, generator=draws),
    )
    return write_folder(tmp_path_factory.mktemp("plain") / "model", tensors, {"format": "test/1", "name": "mixed"})


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A plain checkpoint of little, for tests of each byte. Do not change it."""
    tensors = {"a": torch.arange(12.0), "b": torch.arange(12.0) + 1, "c": torch.ones(3, dtype=torch.int64)}
    return write_folder(tmp_path_factory.mktemp("plain") / "small", Tensors(**tensors), {"format": "test/1"})


@pytest.fixture
def sealed(small, key, signing, tmp_path) -> Path:
    """`small`, sealed and signed."""
    return seal(small, tmp_path / "sealed", key, signing=signing)


@pytest.fixture
def copied(tmp_path):
    """A function that copies a folder under a name."""
    return lambda folder, name: Path(shutil.copytree(folder, tmp_path / name))


@pytest.fixture(scope="session")
def contents():
    """A function that gives every file below a folder by its path."""
    return lambda folder: {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
