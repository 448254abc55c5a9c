"""What an attacker sees of a training step: the gradient of a client's loss on a small batch, simulated or from a file."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError, DataError, UnsafeArtifactError
from trustsnn.files import write_atomically
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.rng import Draws
from trustsnn.settings import check_choice
from trustsnn.tensorfile import read_header, size_of
from trustsnn.training.recipe import logits_of

STATISTICS = {
    "frozen": "batch normalisation by its running statistics, as in eval mode",
    "batch": "batch normalisation by the statistics of the batch, as in training",
}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormThroughTime)
_SAMPLES, _MODEL = "update.samples", "update.model"


@dataclass(frozen=True)
class Update:
    """The gradient of a client's loss on a batch: `gradients` by the parameter's name, each shaped as it; the number of `samples`;
    `model`, the hash of the model that it was taken at."""

    gradients: Mapping[str, Tensor]
    samples: int
    model: str


@dataclass(frozen=True)
class Reconstruction:
    """What an attack makes of an update: images [B, C, H, W] in [0, 1] and labels [B], int64, in no order that says anything.

    `objective` is what an optimisation reached, for none None. `blank`: the update says nothing of the images, so that they show nothing.
    """

    images: Tensor
    labels: Tensor
    objective: float | None = None
    blank: bool = False


def in_mode(model: SpikingNetwork, statistics: str) -> SpikingNetwork:
    """A copy of a network in eval mode but for its batch normalisations, which have those `STATISTICS`; every parameter needs a gradient."""
    check_choice("update", "statistics", statistics, tuple(STATISTICS))
    copied = copy.deepcopy(model).eval().requires_grad_(True)
    for layer in copied.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.train(statistics == "batch")
    return copied


def simulate(model: SpikingNetwork, x: Tensor, y: Tensor, *, statistics: str = "frozen", draws: Draws | None = None) -> Update:
    """The update of a client that holds `x` [B, ...] and labels `y` [B]: the gradient of the cross-entropy of the time-mean logits, a
    mean over the batch, through the model's own surrogate. `model` stays as it is.

    Args:
        statistics: one of `STATISTICS`.
        draws: of a stochastic model, one stream a sample.

    Raises:
        ConfigError: the batch is empty or too small for its own statistics, or draws are missing.
    """
    if len(x) == 0 or len(x) != len(y):
        raise ConfigError(f"Expected at least one sample and one label each for an update, got {len(x)} and {len(y)}.")
    if model.spec.stochastic and draws is None:
        raise ConfigError("The update of a stochastic model takes draws, one stream a sample; none were given.")
    client = in_mode(model, statistics)
    with torch.inference_mode(False), torch.enable_grad():
        try:
            logits = logits_of(client, x, draws or Draws(0, "update", ()))
        except ValueError as error:  # torch's own, of a normalisation over a single value
            raise ConfigError(
                f"A batch of {len(x)} has no statistics of its own: {error}. Take more samples, or statistics 'frozen'."
            ) from error
        names, parameters = zip(*client.named_parameters(), strict=True)
        found = torch.autograd.grad(cross_entropy(logits, y), parameters, materialize_grads=True, allow_unused=True)
    return Update(dict(zip(names, found, strict=True)), len(x), model_hash(model))


def check_update(model: SpikingNetwork, update: Update) -> None:
    """ConfigError where the update is not of this model."""
    if update.model != model_hash(model):
        raise ConfigError(
            f"The update was taken at the model {update.model[:16]}, and this one is {model_hash(model)[:16]}. Pass the checkpoint that the "
            "client began the step from."
        )


def write_update(update: Update, path: Path) -> None:
    """Write an update as one safetensors file, which `read_update` reads."""
    tensors = {name: each.detach().cpu().float().contiguous() for name, each in update.gradients.items()}
    tensors[_SAMPLES] = torch.tensor([update.samples], dtype=torch.int64)
    tensors[_MODEL] = torch.frombuffer(bytearray.fromhex(update.model), dtype=torch.uint8)
    content = safetensors.torch.save(tensors)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_update(path: Path, model: SpikingNetwork) -> Update:
    """The update in a file that `write_update` wrote, for `model`. No more is read than an update of that model takes.

    Raises:
        ConfigError: there is no such file, or the update is of another model.
        UnsafeArtifactError: it is no safetensors file, is cut short or has other tensors.
        DataError: an entry is not finite, or the number of samples is below 1.
    """
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        name: ("F32", tuple(parameter.shape)) for name, parameter in model.named_parameters()
    }
    expected |= {_SAMPLES: ("I64", (1,)), _MODEL: ("U8", (32,))}
    size = sum(size_of(*each) for each in expected.values())
    try:
        with open(path, "rb") as stream:
            layout, head = read_header(stream)
            if {name: (dtype, shape) for name, dtype, shape in layout} != expected:
                raise UnsafeArtifactError(
                    f"The tensors of {path} are not those of an update of this model: expected the gradients of its {len(expected) - 2} "
                    f"parameters in float32, {_SAMPLES} and {_MODEL}. Pass the checkpoint that the client began the step from."
                )
            if os.fstat(stream.fileno()).st_size != len(head) + size:
                raise UnsafeArtifactError(f"{path} is cut short or has bytes too many. Copy it again.")
            tensors = safetensors.torch.load(head + stream.read(size))
    except OSError as error:
        raise ConfigError(f"Could not read the update {path}: {error.strerror or error}.") from error
    samples, digest = int(tensors.pop(_SAMPLES)), bytes(tensors.pop(_MODEL).tolist()).hex()
    wrong = [name for name, each in tensors.items() if not bool(torch.isfinite(each).all())]
    if wrong or samples < 1:
        told = f"NaN or infinity in {wrong[0]}" if wrong else f"{samples} samples"
        raise DataError(f"Expected finite gradients of at least 1 sample in {path}, got {told}. Ask the client for it again.")
    update = Update({name: tensors[name] for name, _ in model.named_parameters()}, samples, digest)
    check_update(model, update)
    return update
