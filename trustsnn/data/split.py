"""A fixed train/test split that depends on the samples' content and not on their order."""

from __future__ import annotations

import numpy as np

from trustsnn.data.dataset import Dataset
from trustsnn.data.problems import problem


def stratified(whole: Dataset, split: str, test_count: int) -> Dataset:
    """The 'train' or 'test' part of `whole`; of each class, the samples with the smallest ids are the test part.

    Each class gives its share of `test_count` (largest remainders; lower classes first where they tie).
    `sha256` becomes the hash of the part. Raises DataError for another split or for an empty part.
    """
    from dataclasses import replace

    check_split(split, whole.name)
    counts = np.bincount(whole.labels, minlength=len(whole.classes))
    shares = counts * test_count / len(whole)
    quota = np.floor(shares).astype(np.int64)
    for label in np.argsort(quota - shares, kind="stable")[: test_count - int(quota.sum())]:
        quota[label] += 1
    order = sorted(range(len(whole)), key=lambda i: whole.ids[i])
    taken = np.zeros_like(quota)
    part = []
    for index in order:
        label = whole.labels[index]
        is_test = taken[label] < quota[label]
        taken[label] += is_test
        if bool(is_test) == (split == "test"):
            part.append(index)
    if not part:
        raise problem(
            f"data set {whole.name!r}", f"samples for the split {split!r}", f"{len(whole)} samples in all", "Add samples to it."
        )
    chosen = whole.select(np.array(sorted(part), dtype=np.int64))
    return replace(chosen, split=split, sha256=chosen.samples_sha256)


def check_split(split: str, name: str) -> None:
    """Raise DataError unless the split is 'train' or 'test'."""
    if split not in ("train", "test"):
        raise problem(f"data set {name!r}", "split 'train' or 'test'", repr(split), "Choose one of the two.")
