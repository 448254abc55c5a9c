"""scikit-learn's embedded digits: the data set that is always there."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from trustsnn.data.arrays import build
from trustsnn.data.dataset import Dataset
from trustsnn.data.split import stratified

TEST_COUNT = 360
TABLE = "sklearn/datasets/data/digits.csv.gz"  # importing sklearn.datasets to read it would take a second


def digits(split: str, root: Path | None = None, download: bool = False) -> Dataset:
    """Digits (UCI, Alpaydin and Kaynak 1998): images [1, 8, 8] of 0..16, divided by 16; 1437 train + 360 test, stratified."""
    table = np.loadtxt(str(distribution("scikit-learn").locate_file(TABLE)), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    whole = build(images, labels, name="digits", split="all", classes=10, scale=16)
    return stratified(whole, split, TEST_COUNT)
