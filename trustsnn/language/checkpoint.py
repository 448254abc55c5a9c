"""Checkpoints of language models: weights in safetensors, architecture and alphabet in JSON, a manifest of their hashes."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from trustsnn.checkpoint import _CONFIG, _MANIFEST, _WEIGHTS, _manifest_text, _read_verified, _refuse_pickles, load_tensors
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.files import write_atomically
from trustsnn.language.model import SpikeGPT, SpikeGPTConfig
from trustsnn.language.text import Alphabet

FORMAT = "trustsnn-language/1"


def save(model: SpikeGPT, folder: Path | str, *, training: dict[str, Any] | None = None) -> Path:
    """Write `model` as a checkpoint folder, the manifest last; `training` (plain values) says how it came about."""
    folder = Path(folder)
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    config = {"format": FORMAT, "architecture": model.architecture, "training": training}
    contents = {
        _WEIGHTS: safetensors.torch.save(tensors),
        _CONFIG: json.dumps(config, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n",
    }
    manifest = _manifest_text({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    for name, content in {**contents, _MANIFEST: manifest.encode()}.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=content))
    return folder


def load(folder: Path | str) -> SpikeGPT:
    """The language model of a checkpoint folder, in eval mode.

    Raises:
        ConfigError: there is no checkpoint at that path.
        UnsafeArtifactError: a pickle, or a file that is truncated, altered, or no language model.
    """
    folder = Path(folder)
    _refuse_pickles(folder)
    config_text, weights = _read_verified(folder)
    try:
        config = json.loads(config_text)
        if config["format"] != FORMAT:
            raise ConfigError(f"expected the format {FORMAT!r}, got {config['format']!r}")
        architecture = dict(config["architecture"])
        alphabet = Alphabet(architecture.pop("alphabet"))
        settings = SpikeGPTConfig(**architecture)
        with torch.device("meta"):
            size = sum(tensor.numel() * tensor.element_size() for tensor in SpikeGPT(alphabet, settings).state_dict().values())
        if size > len(weights):
            raise ConfigError("its architecture is larger than its weights")
        model = SpikeGPT(alphabet, settings)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError, ConfigError) as error:
        raise UnsafeArtifactError(f"{folder / _CONFIG} does not describe a language model of this version: {error}") from error
    load_tensors(model, weights, folder / _WEIGHTS)
    return model.eval()
