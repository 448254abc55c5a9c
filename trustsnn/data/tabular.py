"""Tables as data: a row is a sample [1, 1, features] in [0, 1], which any encoder turns into spikes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trustsnn.data.arrays import build
from trustsnn.data.dataset import Dataset
from trustsnn.data.split import stratified

TEST_COUNT = 189


def cancer(split: str, root: Path | None = None, download: bool = False) -> Dataset:
    """Breast cancer Wisconsin (diagnostic), scikit-learn's embedded copy: 30 measures of a tumour, each from its least to its largest
    value in [0, 1]; malignant or benign; 380 train + 189 test, stratified."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    low, high = bunch.data.min(0), bunch.data.max(0)
    rows = ((bunch.data - low) / (high - low)).astype(np.float32)[:, None, None]
    whole = build(rows, bunch.target, name="cancer", split="all", classes=[str(each) for each in bunch.target_names])
    return stratified(whole, split, TEST_COUNT)
