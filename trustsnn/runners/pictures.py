"""The samples that a report pictures, before and after an attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trustsnn.data import Dataset
from trustsnn.runners.measure import Measured

PICTURES = 8


def shown(clean: pa.Table) -> NDArray[np.int64]:
    """Rows of the samples to picture: the first that are correct without an attack."""
    correct = clean["correct"].to_numpy(zero_copy_only=False)
    return np.flatnonzero(correct)[:PICTURES]


def pictures(data: Dataset, clean: pa.Table, measured: Measured) -> dict[str, NDArray[Any]] | None:
    """The arrays of cells/<key>.npz, None without a sample. Event frames are summed over time and divided by `unit`, the most
    events that any pixel and polarity of them has."""
    rows = sorted(measured.shown)
    if not rows:
        return None
    before, after = (np.stack([measured.shown[row][side].numpy() for row in rows]) for side in (0, 1))
    unit = {}
    if data.domain != "image":
        before, after = before.sum(1), after.sum(1)
        most = np.float32(max(before.max(), after.max(), 1.0))
        before, after, unit = before / most, after / most, {"unit": np.array(most)}
    return {
        "sample": np.array([data.ids[row] for row in rows]),
        "label": measured.columns["label"][rows],
        "clean_prediction": clean["prediction"].to_numpy()[rows],
        "prediction": measured.columns["prediction"][rows],
        "clean": before,
        "adversarial": after,
        **unit,
    }
