"""The triggers of backdoors by name. Light: it imports no torch."""

from __future__ import annotations

from trustsnn.plugins import Catalogue, Entry

_HERE = "trustsnn.attacks.integrity"

TRIGGERS = Catalogue(
    "trigger",
    "trustsnn.triggers",
    {
        "static": Entry(f"{_HERE}.triggers:Static", "a square patch at one place"),
        "moving": Entry(
            f"{_HERE}.triggers:Moving", "a patch that moves with the time steps; of images at a place that the id draws"
        ),
        "smart": Entry(
            f"{_HERE}.triggers:Smart", "a patch where the data is least or most active, of the value that is rarest there"
        ),
        "dynamic": Entry(f"{_HERE}.dynamic:Dynamic", "a small change of its own for each sample, by a trained generator"),
    },
)
