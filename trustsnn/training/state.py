"""The state of a training run between epochs, in one safetensors file that is replaced atomically."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from trustsnn.canonical import canonical_json
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.files import write_atomically

_FILE = "state.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """Finished epochs, their log, and the settings that they belong to."""

    epoch: int
    log: list[dict[str, Any]]
    identity: dict[str, Any]


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write weights, optimizer tensors, epoch and log to `folder`, atomically."""
    tensors: dict[str, Tensor] = {f"model.{k}": v.detach().contiguous() for k, v in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if value is not None:
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).contiguous()
    told = {"epoch": state.epoch, "log": state.log, "identity": state.identity}
    # one key: safetensors writes several in any order, and equal runs are to give equal bytes
    content = safetensors.torch.save(tensors, {"state": canonical_json({**told, "sha256": _digest(told, tensors)})})
    write_atomically(folder / _FILE, lambda path: path.write_bytes(content))


def _digest(told: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(canonical_json(told).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any]
) -> TrainingState | None:
    """Put the state in `folder` into model and optimizer; None where there is none.

    Raises:
        ConfigError: the state belongs to other settings.
        UnsafeArtifactError: the file is truncated or altered.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as stream:
            told = json.loads((stream.metadata() or {})["state"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        if told.pop("sha256") != _digest(told, tensors):
            raise ValueError("its content does not match its SHA-256")
        epoch, log, theirs = told["epoch"], told["log"], told["identity"]
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnsafeArtifactError(f"{path} is not a whole training state: {error}. Delete {folder} to start again.") from error
    ours = json.loads(canonical_json(identity))
    if theirs != ours:
        differing = sorted(key for key in {*ours, *theirs} if theirs.get(key) != ours.get(key))
        raise ConfigError(
            f"{folder} holds a training run of other settings ({', '.join(differing)} differ). Choose another --out, or "
            "delete that folder."
        )
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    content = optimizer.state_dict()
    content["state"] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            content["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(content)
    return TrainingState(epoch, log, identity)
