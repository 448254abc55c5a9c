"""Certificates of a data set's samples as one file that can be checked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trustsnn.blocks import frozen
from trustsnn.canonical import sha256_of
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.defenses.certify.checker import FORMAT
from trustsnn.defenses.certify.curve import certified_accuracy, correct, picture, places, table
from trustsnn.defenses.certify.method import Method
from trustsnn.errors import ConfigError
from trustsnn.files import write_text
from trustsnn.kernels import describe
from trustsnn.version import __version__


def certify(
    model: nn.Module,
    data: Dataset,
    method: Method,
    *,
    radii: Sequence[float] | None = None,
    on_sample: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Certify every sample of `data`; the content of a certificate file (docs/certificates.md).

    Args:
        radii: where the curve of certified accuracy is read; nine places up to the largest radius by default.
        on_sample: is handed each sample's entry as it is done.
    """
    method.check(model)
    spec: Any = model.spec
    if data.domain != "image" or spec.input_shape not in ((), data.sample_shape):
        raise ConfigError(
            f"The data set {data.name} ({data.domain}, samples {list(data.sample_shape)}) does not fit the model ({spec.domain}, samples "
            f"{list(spec.input_shape)})."
        )
    entries = []
    with frozen(model):
        for place, sample in enumerate(data.ids):
            x, y = data.batch([place])
            entries.append({"sample": sample, "label": int(y[0]), **method.entry(model, torch.from_numpy(x)[0], sample)})
            if on_sample is not None:
                on_sample(entries[-1])
    at = places(entries) if radii is None else sorted(set(radii))
    content = {
        "format": FORMAT,
        "method": method.name,
        "norm": method.norm,
        "settings": method.describe(),
        "model": {"hash": model_hash(model), "steps": spec.steps, "classes": spec.classes},
        "data": {
            "name": data.name, "split": data.split, "sha256": data.sha256, "samples_sha256": data.samples_sha256,
            "domain": data.domain, "max_count": data.max_count, "count": len(data),
        },
        "environment": {"trustsnn": __version__, "torch": torch.__version__, "kernels": describe()},
        "correct": correct(entries),
        "curve": [{"radius": radius, **certified_accuracy(entries, method.norm, radius)} for radius in at],
        "samples": entries,
    }  # fmt: skip
    return {**content, "sha256": sha256_of(content)}


def write(content: dict[str, Any], folder: Path) -> Path:
    """Write certificates.json, certificates.csv and certified.svg to `folder`; the path of the first."""
    path = folder / "certificates.json"
    write_text(folder / "certificates.csv", table(content["samples"]))
    write_text(folder / "certified.svg", picture(content))
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path
