"""Checkpoints of language models: weights in safetensors, architecture and alphabet in JSON, a manifest of their hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from trustsnn.checkpoint import CONFIG, WEIGHTS, load_tensors, read_folder, write_folder
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.keys import Key
from trustsnn.language.model import SpikeGPT, SpikeGPTConfig
from trustsnn.language.text import Alphabet

FORMAT = "trustsnn-language/1"


def save(model: SpikeGPT, folder: Path | str, *, training: dict[str, Any] | None = None) -> Path:
    """Write `model` as a checkpoint folder, the manifest last; `training` (plain values) says how it came about."""
    return write_folder(Path(folder), model, {"format": FORMAT, "architecture": model.architecture, "training": training})


def is_language_model(folder: Path | str) -> bool:
    """Whether a checkpoint folder says of itself that it holds a language model."""
    try:
        found = json.loads((Path(folder) / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def load(folder: Path | str, *, key: Key | None = None) -> SpikeGPT:
    """The language model of a checkpoint folder, in eval mode. A sealed one needs its key, and is opened in memory alone.

    Raises:
        ConfigError: there is no checkpoint at that path, or it is sealed and no key is given.
        UnsafeArtifactError: a pickle, a file that is truncated, altered, or no language model, or a wrong key.
    """
    folder = Path(folder)
    config_text, weights = read_folder(folder, key)
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
        raise UnsafeArtifactError(f"{folder / CONFIG} does not describe a language model of this version: {error}") from error
    load_tensors(model, weights, folder / WEIGHTS)
    return model.eval()
