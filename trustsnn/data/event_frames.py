"""Simulated event frames of an image data set, made on demand and kept in memory."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from trustsnn.canonical import canonical_json, sha256_of
from trustsnn.data.dataset import Dataset, Domain
from trustsnn.data.events import Camera, saccades, simulate_frames
from trustsnn.data.problems import problem

_CHUNK = 32
_GREY = np.array([0.299, 0.587, 0.114])


class SimulatedFrames:
    """Event frames of the images of `source`; binary ones are kept as bits, counts as bytes."""

    def __init__(self, source: Dataset, frames: int, counts: bool, camera: Camera) -> None:
        self.source, self.frames, self.counts, self.camera = source, frames, counts, camera
        height, width = source.sample_shape[1:]
        self._shape = (frames, 2, *saccades(height, width).canvas)
        size = int(np.prod(self._shape))
        deep = counts and camera.max_count(frames) > 255
        self._kept = np.zeros((len(source), size if counts else -(-size // 8)), dtype=np.uint16 if deep else np.uint8)
        self._done = np.zeros(len(source), dtype=np.bool_)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return len(self.source)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        wanted = np.unique(rows)
        wanted = wanted[~self._done[wanted]]
        for start in range(0, len(wanted), _CHUNK):
            self._simulate(wanted[start : start + _CHUNK])
        kept = self._kept[rows]
        if not self.counts:
            kept = np.unpackbits(kept, axis=1, count=int(np.prod(self._shape)))
        return kept.reshape(len(rows), *self._shape).astype(np.float32)

    def _simulate(self, rows: NDArray[np.int64]) -> None:
        images = self.source.batch(rows)[0].astype(np.float64)
        grey = np.tensordot(images, _GREY, axes=(1, 0)) if images.shape[1] == 3 else images.mean(axis=1)
        frames = simulate_frames(np.clip(grey, 0.0, 1.0), self.frames, counts=self.counts, camera=self.camera)
        flat = frames.reshape(len(rows), -1)
        self._kept[rows] = flat.astype(self._kept.dtype) if self.counts else np.packbits(flat.astype(np.bool_), axis=1)
        self._done[rows] = True


def events_of(source: Dataset, frames: int = 10, *, counts: bool = False, camera: Camera | None = None) -> Dataset:
    """`source` (domain 'image') as seen by an event camera: samples [frames, 2, H', W'], domain 'events-binary' or
    'events-count'. An id is made of the image's id and of all settings. Raises DataError for a source that is no image set.
    """
    if source.domain != "image":
        raise problem(f"events:{source.name}", "an image data set", source.domain, "Leave 'events:' out: it holds events.")
    camera = camera or Camera()
    values = SimulatedFrames(source, frames, counts, camera)
    domain: Domain = "events-count" if counts else "events-binary"
    settings = {"model": "esim-saccades/1", "frames": frames, "counts": counts, "camera": asdict(camera)}
    start = hashlib.sha256(canonical_json(settings).encode())
    return Dataset(
        name=f"events:{source.name}",
        split=source.split,
        domain=domain,
        values=values,
        labels=source.labels,
        classes=source.classes,
        ids=tuple(_derived(start, sample_id) for sample_id in source.ids),
        sha256=sha256_of({"source": source.sha256, "settings": settings}),
        max_count=camera.max_count(frames) if counts else None,
    )


def _derived(start: hashlib._Hash, sample_id: str) -> str:
    digest = start.copy()
    digest.update(sample_id.encode())
    return digest.hexdigest()[:16]
