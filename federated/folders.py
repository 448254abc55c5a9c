"""Clients that own folders: FOLDER/CLIENT/..., each as `trustsnn.data.load` reads it, joined into one data set and its partition."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trustsnn.data import Dataset, load, splits
from trustsnn.data.arrays import Stored, build
from trustsnn.data.problems import problem
from trustsnn.data.split import check_split
from trustsnn.federated.partition import Partition, order_of


def load_clients(
    place: str | os.PathLike[str], split: str, *, frames: int = 10, counts: bool = False
) -> tuple[Dataset, Partition]:
    """The samples of a split of all clients, client after client, and who owns them.

    A client is a sub-folder with either one folder of images a class (with train/ and test/ above them where there are such), or one .npz
    file of images or event frames; else a fixed fifth of each of its classes is its test split. Clients are sorted by name. A class that
    only some have is a class of all: labels follow the names of the classes, not their places. With "events:" before it the images are
    seen by a simulated event camera, `frames` and `counts` as in `trustsnn.data.load`.

    Raises:
        DataError: no clients, a client without a sample of the split, a broken file, or samples of different shape or kind.
        UnsafeArtifactError: an .npz holds a pickle.
    """
    text = os.fspath(place)
    check_split(split, text)
    folder = Path(text.removeprefix("events:")).expanduser()
    homes = (
        sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")) if folder.is_dir() else []
    )
    if not homes or {each.name for each in homes} <= {"train", "test"}:
        raise problem(
            folder,
            "a folder for each client",
            f"{[each.name for each in homes]}",
            "Put each client's data in a folder of its own.",
        )
    parts = [_load(home, split) for home in homes]
    data = joined(parts, folder.resolve().name, split)
    if text.startswith("events:"):
        from trustsnn.data.event_frames import events_of

        data = events_of(data, frames, counts=counts)
    ends = np.cumsum([len(part) for part in parts])
    own = tuple(np.split(np.arange(len(data), dtype=np.int64), ends[:-1]))
    return data, Partition(own, len(data), order_of(data), {"scheme": "folder"}, tuple(home.name for home in homes))


def joined(parts: Sequence[Dataset], name: str, split: str) -> Dataset:
    """One data set of all samples, in order, whose classes are those of all parts by name. DataError where shapes or kinds differ."""
    domains = {part.domain for part in parts}
    for part in parts:
        if part.sample_shape != parts[0].sample_shape or ("image" in domains and len(domains) > 1):
            raise problem(
                f"client {part.name!r}", f"samples as those of {parts[0].name!r}, {parts[0].domain} {list(parts[0].sample_shape)}",
                f"{part.domain} {list(part.sample_shape)}", "Bring all clients' samples to one kind and size.",
            )  # fmt: skip
    names = {each for part in parts for each in part.classes}
    classes = sorted(names, key=lambda each: (not each.isdecimal(), int(each) if each.isdecimal() else 0, each))
    labels = [aligned(part, classes).labels for part in parts]
    stored = [part.values for part in parts if isinstance(part.values, Stored)]
    kept = len(stored) == len(parts) and len({(each.scale, each.array.dtype) for each in stored}) == 1
    if kept:
        values = np.concatenate([each.array[part.rows] for each, part in zip(stored, parts, strict=True)])
    else:
        values = np.concatenate([part.batch(np.arange(len(part)))[0] for part in parts])
    return build(
        values, np.concatenate(labels), name=name, split=split, classes=classes, scale=stored[0].scale if kept else 1,
        domain="events-count" if len(domains) > 1 else parts[0].domain,
        max_count=max((part.max_count or 1 for part in parts), default=1) if "events-count" in domains else None,
    )  # fmt: skip


def aligned(data: Dataset, classes: Sequence[str]) -> Dataset:
    """The same samples with labels that count the classes of the federation, by name: what a device with data of its own needs.

    Raises:
        DataError: `data` has a sample of a class that is none of them.
    """
    place = {each: number for number, each in enumerate(classes)}
    unknown = [each for number, each in enumerate(data.classes) if each not in place and bool((data.labels == number).any())]
    if unknown:
        raise problem(
            f"data set {data.name!r}", f"classes among {', '.join(classes)}", repr(unknown[0]), "Rename or leave out the class."
        )
    labels = np.array([place.get(each, 0) for each in data.classes], dtype=np.int64)[data.labels]
    return replace(data, labels=labels, classes=tuple(classes))


def _load(home: Path, split: str) -> Dataset:
    files = sorted(home.glob("*.npz"))
    if len(files) > 1:
        raise problem(
            home, "one .npz file, or folders of images", f"{len(files)} .npz files", "Put a client's samples into one of them."
        )
    return splits(files[0].resolve())[split] if files else load(home.resolve(), split)
