"""Tampering with the threshold or the leak of whole layers: a few bytes that no checksum of the weights covers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.bitserial import BitSerial
from trustsnn.training import accuracy

PARAMETERS = ("threshold", "leak")
FACTORS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def tamperable(network: SpikingNetwork) -> list[str]:
    """The layers of neurons with a threshold and a leak of their own, by name."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, SpikingNeuron) and module.binary and not isinstance(module, BitSerial)
    ]


@contextmanager
def scaled(network: SpikingNetwork, layers: Sequence[str], parameter: str, factor: float) -> Iterator[None]:
    """Inside, that parameter of these layers is `factor` times as large; a leak 1 at most."""
    found = [getattr(network.get_submodule(layer), parameter) for layer in layers]
    before = [each.detach().clone() for each in found]
    try:
        with torch.no_grad():
            for each in found:
                each.mul_(factor)
                if parameter == "leak":
                    each.clamp_max_(1.0)
        yield
    finally:
        with torch.no_grad():
            for each, value in zip(found, before, strict=True):
                each.copy_(value)


def parameter_sweep(
    network: SpikingNetwork, data: Dataset, parameter: str, factors: Sequence[float] = FACTORS, *, seed: int = 0
) -> list[dict[str, Any]]:
    """The accuracy on `data` with one parameter scaled by each factor: in all layers (`layer` None), and in each alone. Plain values.

    Raises:
        ConfigError: an unknown parameter, a factor that is not positive, or no layer that has the parameter.
    """
    if parameter not in PARAMETERS:
        raise ConfigError(f"Expected a parameter of {', '.join(PARAMETERS)}, got {parameter!r}.")
    if not factors or not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise ConfigError(f"Expected positive factors, got {list(factors)}.")
    layers = tamperable(network)
    if not layers:
        raise ConfigError("The network has no layer of neurons with a threshold and a leak of its own.")
    rows = []
    for layer in (None, *layers):
        points = []
        for factor in factors:
            with scaled(network, layers if layer is None else [layer], parameter, factor):
                points.append({"factor": factor, **accuracy(network, data, seed=seed)})
        rows.append({"parameter": parameter, "layer": layer, "points": points})
    return rows
