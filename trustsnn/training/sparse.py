"""Fixed masks on synapses (arXiv 2312.01213, eq. 1): which of them exist is decided once, and training keeps to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trustsnn.errors import ConfigError
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.rng import stream

Masks = Mapping[str, Tensor]


class LayerSynapses(NamedTuple):
    """The synapses of a layer, which are the entries of its weight, and how many of them are not 0."""

    layer: str
    synapses: int
    active: int


def synaptic_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers of a model by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)}


def count_synapses(model: nn.Module) -> list[LayerSynapses]:
    """The synapses of each layer. A convolution's weight counts once, however many positions share it."""
    layers = synaptic_layers(model).items()
    return [LayerSynapses(name, weight_of(layer).numel(), int(weight_of(layer).count_nonzero())) for name, layer in layers]


def maskable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """As `synaptic_layers`; ConfigError where the model has synapses in something else, which would all stay."""
    found = synaptic_layers(model)
    others = [
        f"{name} ({type(layer).__name__})"
        for name, layer in model.named_modules()
        if name not in found
        and not isinstance(layer, BatchNormThroughTime)
        and any(key.startswith("weight") and p.dim() > 1 for key, p in layer.named_parameters(recurse=False))
    ]
    if others or not found:
        got = ", ".join(others) if others else f"{type(model).__name__}, which has none"
        raise ConfigError(f"Expected a model whose synapses are those of convolutions and linear layers, got {got}.")
    return found


def random_masks(model: nn.Module, sparsity: float, seed: int = 0) -> dict[str, Tensor]:
    """Masks that take the share `sparsity` of each layer's synapses away, drawn by `seed` and layer; one at least is left."""
    check_sparsity(sparsity)
    masks = {}
    for name, layer in maskable_layers(model).items():
        weight = weight_of(layer)
        kept = max(1, weight.numel() - round(sparsity * weight.numel()))
        chosen = torch.from_numpy(stream(seed, "sparse", name).permutation(weight.numel())[:kept])
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[chosen] = True
        masks[name] = mask.reshape(weight.shape)
    return masks


def magnitude_masks(model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """Masks that take away the share `sparsity` of all synapses, those with the smallest scores, and every w = 0.

    The score is LAMP (Lee, ICLR 2021): w^2 over the sum of w^2 of the synapses of the layer that are no smaller. Within a layer
    the smallest |w| go first; the largest synapse of every layer has the score 1, so that no layer is left empty.
    """
    check_sparsity(sparsity)
    layers = maskable_layers(model)
    scores = torch.cat([_lamp(weight_of(layer).detach().flatten()) for layer in layers.values()])
    mask = scores > 0
    mask[scores.argsort(stable=True)[: round(sparsity * len(scores))]] = False
    parts = mask.split([weight_of(layer).numel() for layer in layers.values()])
    return {name: part.reshape(weight_of(layers[name]).shape) for name, part in zip(layers, parts, strict=True)}


def _lamp(weight: Tensor) -> Tensor:
    squares, order = weight.double().square().sort(stable=True)
    no_smaller = squares.flip(0).cumsum(0).flip(0)
    return torch.empty_like(squares).index_copy(0, order, squares / no_smaller.clamp(min=torch.finfo(torch.double).tiny))


@contextmanager
def masked(model: nn.Module, masks: Masks) -> Iterator[None]:
    """Inside, the synapses that `masks` takes away are 0 and get no gradient; a layer without a mask stays as it is.

    Enter it before the optimizer is made, and save the model outside: there its weights are plain parameters again, exactly 0
    where they were masked.

    Args:
        masks: by layer (see `synaptic_layers`), bool tensors of the weight's shape, True where a synapse is.

    Raises:
        ConfigError: a mask is for no layer of the model, of another shape, or not bool.
    """
    layers = synaptic_layers(model)
    for name, mask in masks.items():
        if name not in layers:
            raise ConfigError(f"Expected masks for layers among {', '.join(layers)}, got one for {name!r}.")
        shape = weight_of(layers[name]).shape
        if mask.dtype != torch.bool or mask.shape != shape:
            got = f"{mask.dtype} {list(mask.shape)}"
            raise ConfigError(f"Expected a bool mask {list(shape)} for the weight of {name}, got {got}.")
    with reparametrised({layers[name]: _Mask(mask) for name, mask in masks.items()}):
        yield


class SparseWeight(nn.Module, ABC):
    """What makes a layer's weight from the parameter that is trained in its place."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that decide it, for the identity of a training run."""


class _Mask(SparseWeight):
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def settings(self) -> dict[str, Any]:
        return {"mask": sha256(self.mask.cpu().numpy().tobytes()).hexdigest()}


@contextmanager
def reparametrised(weights: Mapping[nn.Module, SparseWeight]) -> Iterator[list[nn.Parameter]]:
    """Inside, each layer's weight is made from a parameter; these are given. Outside, it is a plain parameter of the last value."""
    originals = []
    done = []
    try:
        for layer, weight in weights.items():
            parametrize.register_parametrization(layer, "weight", weight.to(weight_of(layer).device))
            done.append(layer)
            originals.append(layer.parametrizations.weight.original)  # type: ignore[union-attr]
        yield originals  # type: ignore[misc]
    finally:
        for layer in done:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def sparse_settings(model: nn.Module) -> dict[str, Any]:
    """What decides which synapses of a model are trained, by layer; empty outside `masked` and `GradR.applied`."""
    found = {}
    for name, layer in synaptic_layers(model).items():
        if parametrize.is_parametrized(layer, "weight"):
            made = [each.settings() for each in layer.parametrizations.weight if isinstance(each, SparseWeight)]  # type: ignore[union-attr]
            found[name] = made
    return found


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weight."""
    return layer.weight  # type: ignore[return-value]


def check_sparsity(sparsity: float, low: float = 0.0) -> None:
    """A ConfigError unless `sparsity` is in [low, 1)."""
    if not low <= sparsity < 1:
        raise ConfigError(f"Expected a sparsity, the share of synapses to take away, in [{low:g}, 1), got {sparsity}.")
