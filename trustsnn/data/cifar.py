"""CIFAR-10 in its binary version: records of one label byte and 3 x 32 x 32 colour bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trustsnn.data.arrays import build
from trustsnn.data.dataset import Dataset
from trustsnn.data.idx import missing
from trustsnn.data.problems import problem
from trustsnn.data.split import check_split

RECORD = 1 + 3 * 32 * 32
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(split: str, root: Path, download: bool = False) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009): images [3, 32, 32], from ROOT/cifar-10-batches-bin, any number of records a file."""
    check_split(split, "cifar10")
    place = root / "cifar-10-batches-bin"
    pattern = "data_batch_*.bin" if split == "train" else "test_batch.bin"
    files = sorted(place.glob(pattern))
    if not files and download:
        from trustsnn.data.download import fetch

        fetch("cifar10", root)
        files = sorted(place.glob(pattern))
    if not files:
        raise missing("cifar10", [place / pattern])
    records = np.concatenate([read_records(path) for path in files])
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    return build(images, records[:, 0], name="cifar10", split=split, classes=_class_names(place), scale=255)


def read_records(path: Path) -> NDArray[np.uint8]:
    """The records of one file, uint8 [N, 3073]. Raises DataError for a size that is no multiple of 3073 or a label above 9."""
    content = path.read_bytes()
    if not content or len(content) % RECORD:
        raise problem(path, f"a multiple of {RECORD} bytes above 0", f"{len(content)} bytes", "Fetch the file again.")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(_CLASSES))
    if wrong.size:
        index = int(wrong[0])
        raise problem(f"{path}, record {index}", "a label in 0..9", int(records[index, 0]), "Fetch the file again.")
    return records


def _class_names(place: Path) -> tuple[str, ...]:
    path = place / "batches.meta.txt"
    if not path.is_file():
        return _CLASSES
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != len(_CLASSES):
        raise problem(path, "10 class names", len(names), "Mend the file or delete it: the usual names are then used.")
    return names
