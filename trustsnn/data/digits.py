"""scikit-learn's embedded digits: the data set that is always there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trustsnn.data.arrays import build
from trustsnn.data.dataset import Dataset
from trustsnn.data.split import stratified

TEST_COUNT = 360


def digits(split: str, root: Path | None = None, download: bool = False) -> Dataset:
    """Digits (UCI, Alpaydin and Kaynak 1998): images [1, 8, 8] of 0..16, divided by 16; 1437 train + 360 test, stratified."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    whole = build(images, bunch.target, name="digits", split="all", classes=10, scale=16)
    return stratified(whole, split, TEST_COUNT)
