"""A user's own module in a federation: every site makes it by the same callable, and the weights of the server go into it.

The settings hold the callable's name alone. What is called comes from the command line, or from the code of the Flower app, never from the
settings: they are a file that anyone may have written, and nothing in it is executed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from trustsnn import checkpoint
from trustsnn.errors import ConfigError
from trustsnn.files import write_atomically
from trustsnn.interop.wrap import WrappedModel
from trustsnn.keys import Key
from trustsnn.plugins import called, load_object

WEIGHTS = "model.safetensors"


def is_foreign(architecture: dict[str, Any]) -> bool:
    """Whether a federation's architecture names a callable, "package.module:name"."""
    return ":" in str(architecture.get("name", ""))


def architecture_of(code: str, input_shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """The architecture of the module that `code` makes for samples of this shape, as a federation's settings have it."""
    model = _made(code, input_shape, seed)
    return {"name": code, "arguments": {"input_shape": list(input_shape), "seed": seed, "steps": model.spec.steps}}


def build(architecture: dict[str, Any], code: str | None, weights: Path | None = None) -> WrappedModel:
    """The module of an architecture of `architecture_of`, by the callable `code` that whoever starts this process named.

    Args:
        weights: a safetensors file of its state dict; without it the weights are those of the seed.

    Raises:
        ConfigError: no callable was named, or another than the federation's; it makes no wrapped module, or one of other time steps.
        UnsafeArtifactError: the weights do not fit.
    """
    name, given = architecture["name"], architecture["arguments"]
    if code != name:
        raise ConfigError(
            f"This federation trains the module that {name} makes, and {'nothing' if code is None else code} was named here: settings alone "
            f"make nobody's code run. Name it with --model {name}, or in the app that is written with it."
        )
    model = _made(name, tuple(given["input_shape"]), int(given["seed"]))
    if model.spec.steps != given["steps"]:
        raise ConfigError(f"Expected {given['steps']} time steps of the module that {name} makes, got {model.spec.steps}.")
    if weights is not None:
        checkpoint.load_weights(model.module, weights)
    return model


def save(model: nn.Module, folder: Path, training: dict[str, Any], key: Key | None = None) -> Path:
    """Keep a trained model in `folder`: a bundled network as the checkpoint folder `model`, sealed if there is a key, the state dict of a
    wrapped module in a safetensors file, for `--weights`."""
    if not isinstance(model, WrappedModel):
        return checkpoint.save(model, folder / "model", training=training, key=key)
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.module.state_dict().items()}
    content = safetensors.torch.save(tensors)
    write_atomically(folder / WEIGHTS, lambda path: path.write_bytes(content))
    return folder / WEIGHTS


def _made(code: str, input_shape: tuple[int, ...], seed: int) -> WrappedModel:
    """In eval mode, with the weights that the seed gives, called once: how it takes time is found out then."""
    function = load_object(code)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = function if isinstance(function, nn.Module) else called(function, code)
    if not isinstance(model, WrappedModel):
        raise ConfigError(f"Expected {code} to return trustsnn.wrap(module, time_steps=T), got {type(model).__name__}.")
    model.spec = replace(model.spec, input_shape=input_shape)
    model.eval()
    with torch.no_grad():
        model(torch.zeros(2, *input_shape))
    return model
