"""Arrays in memory as a data set: values checked, stored compactly and named by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.canonical import sha256_of
from trustsnn.data.dataset import Dataset, Domain
from trustsnn.data.problems import problem

_CHUNK = 1024


class Stored:
    """Samples in one array of uint8, uint16 or float32; `read` divides by `scale`."""

    def __init__(self, array: NDArray[Any], scale: int = 1) -> None:
        self.array = np.ascontiguousarray(array)
        self.array.setflags(write=False)
        self.scale = scale

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        values = self.array[rows].astype(np.float32)
        return values if self.scale == 1 else np.divide(values, np.float32(self.scale), out=values)


def from_arrays(
    x: Any,
    y: Any,
    *,
    name: str = "arrays",
    split: str = "test",
    classes: Sequence[str] | int | None = None,
    domain: Domain = "image",
    max_count: int | None = None,
) -> Dataset:
    """A data set of numpy arrays or torch tensors.

    Image: x [N, C, H, W] (or [N, H, W]), floats in [0, 1], or uint8, which is divided by 255.
    Events: x [N, T, 2, H, W] of 0 and 1 ('events-binary') or of counts 0..max_count ('events-count'; the largest count in x
    unless told). y: whole numbers [N] in 0..K-1. `classes`: the K names, or K; the largest label + 1 unless told.

    Raises DataError for NaN, infinity, a value or a label out of range, lengths that differ, no sample, a wrong shape or type.
    """
    values, labels = to_numpy(x, name), to_numpy(y, name)
    if domain == "image" and values.ndim == 3:
        values = values[:, None]
    _check_shape(values, domain, name)
    scale = 1
    if domain == "image":
        scale = 255 if values.dtype == np.uint8 else 1
    elif domain == "events-count" and max_count is None:
        max_count = _largest(values, name)
    return build(values.copy(), labels, name=name, split=split, classes=classes, domain=domain, scale=scale, max_count=max_count)


def build(
    values: NDArray[Any],
    labels: NDArray[Any],
    *,
    name: str,
    split: str,
    classes: Sequence[str] | int | None = None,
    domain: Domain = "image",
    scale: int = 1,
    max_count: int | None = None,
) -> Dataset:
    """What `from_arrays` and the readers share: check every value, name every sample. `values` is kept, not copied."""
    if len(values) == 0:
        raise problem(f"data set {name!r}", "at least 1 sample", "0 samples", "Check the path and the split.")
    highest = {"image": scale, "events-binary": 1, "events-count": max_count or 0}[domain]
    _check_values(values, highest, domain != "image", name)
    if values.dtype != np.uint8:
        values = values.astype(np.uint8 if domain != "image" and highest <= 255 else np.float32)
    stored = Stored(values, scale)
    if classes is None:
        classes = int(labels.max()) + 1 if labels.size and labels.dtype.kind in "iu" and labels.max() >= 0 else 1
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(map(str, classes))
    ids = content_ids(stored, labels) if labels.shape == (len(stored),) else ()
    sha256 = sha256_of({"domain": domain, "max_count": max_count, "ids": sorted(ids)})
    return Dataset(name, split, domain, stored, labels, names, ids or ("",) * len(stored), sha256, max_count)


def content_ids(stored: Stored, labels: NDArray[Any]) -> tuple[str, ...]:
    """One id a sample: 16 hex digits of SHA-256(type, scale, shape, value bytes, label); equal samples get -1, -2, ..."""
    array = stored.array.astype(stored.array.dtype.newbyteorder("<"), copy=False)
    start = hashlib.sha256(f"{array.dtype.str}|{stored.scale}|{array.shape[1:]}|".encode())
    seen: dict[str, int] = {}
    ids = []
    for sample, label in zip(array, labels.tolist(), strict=True):
        digest = start.copy()
        digest.update(sample.data)
        digest.update(f"|{label}".encode())
        sample_id = digest.hexdigest()[:16]
        repeats = seen.get(sample_id, 0)
        seen[sample_id] = repeats + 1
        ids.append(f"{sample_id}-{repeats}" if repeats else sample_id)
    return tuple(ids)


def to_numpy(values: Any, name: str) -> NDArray[Any]:
    """A numpy view of an array, a list or a tensor (also one that requires a gradient or lies on another device)."""
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values.float() if str(values.dtype) == "torch.bfloat16" else values
            values = values.numpy()
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise problem(f"data set {name!r}", "an array or a tensor", error, "Pass numpy arrays or torch tensors.") from error
    if array.dtype.kind not in "biuf":
        raise problem(
            f"data set {name!r}", "numbers", f"an array of type {array.dtype}", "Pass floats in [0, 1], uint8 or whole numbers."
        )
    return array


def _check_shape(values: NDArray[Any], domain: Domain, name: str) -> None:
    where = f"data set {name!r}"
    if domain == "image":
        if values.ndim != 4 or 0 in values.shape[1:]:
            raise problem(where, "images [N, C, H, W]", f"shape {list(values.shape)}", "Reshape x.")
        if values.dtype != np.uint8 and values.dtype.kind != "f":
            raise problem(
                where, "floats in [0, 1] or uint8", values.dtype, "Convert with x.astype('uint8') or divide by the largest value."
            )
    elif domain in ("events-binary", "events-count"):
        if values.ndim != 5 or values.shape[2] != 2 or 0 in values.shape[1:]:
            raise problem(where, "event frames [N, T, 2, H, W]", f"shape {list(values.shape)}", "Put the batch first.")
    else:
        raise problem(where, "domain 'image', 'events-binary' or 'events-count'", repr(domain), "Choose one of the three.")


def _largest(values: NDArray[Any], name: str) -> int:
    largest = float(values.max(initial=1))
    if not np.isfinite(largest):
        bad = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
        raise problem(f"data set {name!r}, sample {bad}", "whole counts", "NaN or infinity", "Clean the values.")
    return max(1, int(largest))


def _check_values(values: NDArray[Any], highest: int, whole: bool, name: str) -> None:
    """Raise DataError at the first sample with NaN, infinity, a value outside 0..highest, or a fraction where `whole`."""
    if values.dtype == np.uint8 and highest >= 255:
        return
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK].reshape(len(values[start : start + _CHUNK]), -1)
        good = (chunk >= 0) & (chunk <= highest)
        if whole and chunk.dtype.kind == "f":
            good &= chunk == np.rint(chunk)
        if good.all():
            continue
        row, column = (int(i) for i in np.argwhere(~good)[0])
        kind = f"whole numbers in 0..{highest}" if whole else f"values in [0, {highest}]"
        raise problem(
            f"data set {name!r}, sample {start + row}",
            kind,
            chunk[row, column],
            "Scale, clip or clean the values, then load again.",
        )
