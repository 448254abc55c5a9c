"""From what a user names to objects: models and data sets of an audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trustsnn import checkpoint
from trustsnn.blocks import BLOCK
from trustsnn.data import Dataset, from_arrays, load
from trustsnn.errors import ConfigError
from trustsnn.interop import nir
from trustsnn.interop.wrap import WrappedModel
from trustsnn.models.spec import ModelSpec
from trustsnn.plugins import called, load_object


def resolve_model(model: Any, weights: Path | None = None) -> nn.Module:
    """A model from a module, a checkpoint folder, a NIR file ("FILE.nir", "FILE.nir:dt=1e-4,time_steps=25"), or
    "package.module:callable" that returns one.

    `weights`: a safetensors file for a model made by a callable.
    """
    if isinstance(model, nn.Module):
        found: Any = model
    elif isinstance(model, str | Path):
        text = str(model)
        path = Path(text).expanduser()
        if nir.is_nir(text):
            if weights is not None:
                raise ConfigError("--weights goes with package.module:callable; a NIR file holds its own weights.")
            return nir.read_named(str(path))
        if path.exists() or ":" not in text:
            if weights is not None:
                raise ConfigError("--weights goes with package.module:callable; a checkpoint folder holds its own weights.")
            return checkpoint.load(path)
        made = load_object(text)
        found = made if isinstance(made, nn.Module) else called(made, text)
    else:
        raise ConfigError(f"Expected a model, a checkpoint folder or package.module:callable, got {type(model).__name__}.")
    if not isinstance(found, nn.Module) or not isinstance(getattr(found, "spec", None), ModelSpec):
        raise ConfigError(
            f"{type(found).__name__} has no spec, so its input domain and time steps are not known. "
            "Pass trustsnn.wrap(module, domain='image', time_steps=T)."
        )
    if weights is not None:
        checkpoint.load_weights(getattr(found, "module", found), weights)
    return found.eval()


def resolve_data(data: Any, spec: ModelSpec, *, split: str = "test", root: Path | None = None, download: bool = False) -> Dataset:
    """A data set from a Dataset, a name or path, a pair (x, y) of arrays or tensors, or a DataLoader of such pairs."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        counts = spec.domain == "events-count"
        return load(data, split, root=root, download=download, frames=spec.steps, counts=counts)
    if not (isinstance(data, tuple | list) and len(data) == 2):
        try:
            pairs = [(np.asarray(x), np.asarray(y)) for x, y in data]
            data = tuple(np.concatenate(part) for part in zip(*pairs, strict=True))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "Expected data as a name, a folder, a Dataset, a pair (x, y), or a DataLoader that yields pairs (x, y), got "
                f"{type(data).__name__}: {error}."
            ) from error
    return from_arrays(*data, domain=spec.domain, max_count=spec.max_count, classes=spec.classes)


def fit(model: nn.Module, data: Dataset) -> ModelSpec:
    """The model's spec, completed by the data's shape where a wrapped model left it open; ConfigError if they do not fit."""
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    if not spec.input_shape:
        spec = replace(spec, input_shape=data.sample_shape)
        if isinstance(model, WrappedModel):
            model.spec = spec
    if data.domain != spec.domain or data.sample_shape != spec.input_shape:
        raise ConfigError(
            f"The data set {data.name} ({data.domain}, samples {list(data.sample_shape)}) does not fit the model "
            f"({spec.domain}, samples {list(spec.input_shape)})."
        )
    if int(data.labels.max()) >= spec.classes:
        raise ConfigError(f"The data set {data.name} has the label {int(data.labels.max())}, the model {spec.classes} classes.")
    return spec


def first_batch(data: Dataset, count: int = BLOCK) -> torch.Tensor:
    """Up to `count` samples as a tensor, for the contract check."""
    return torch.from_numpy(data.batch(np.arange(min(count, len(data))))[0])
