"""The bundled architectures: mlp, conv, vgg9, vgg11, each for images or event frames."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from trustsnn.encoders import encoder as find_encoder
from trustsnn.errors import ConfigError
from trustsnn.models.catalogue import MODELS
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import Domain, ModelSpec
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate
from trustsnn.neurons.bitserial import BitSerial
from trustsnn.neurons.qcfs import QCFS

NEURONS = {
    "lif": "leaky integrate-and-fire",
    "qcfs": "no spikes: the quantised activation of an ANN that is to be converted, T = 1",
    "bit-serial": "T spikes are the T bits of an activation",
}
_LATER = {"neuron": "lif", "levels": 15, "sparsity": 0.0, "initial": 0.0}

Neuron = Callable[[], SpikingNeuron]

# numbers are convolutions with that many channels, "P" is average pooling by 2
_VGG = {
    "vgg9": ((64, 64, "P", 128, 128, "P", 256, 256, 256, "P"), (1024,)),
    "vgg11": ((64, "P", 128, "P", 256, 256, "P", 512, 512, "P", 512, 512, "P"), (512, 512)),
    "conv": ((32, "P", 64, "P"), (128,)),
}


def _mlp(shape: tuple[int, ...], neuron: Neuron, norm: bool, width: float) -> tuple[list[nn.Module], int]:
    features = 1
    for size in shape:
        features *= size
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(2):
        features = _dense(layers, features, max(1, round(256 * width)), neuron, norm)
    return layers, features


def _dense(layers: list[nn.Module], inputs: int, outputs: int, neuron: Neuron, norm: bool) -> int:
    layers.append(nn.Linear(inputs, outputs, bias=not norm))
    if norm:
        layers.append(nn.BatchNorm1d(outputs))
    layers.append(neuron())
    return outputs


def _convolutional(
    plan: Sequence[int | str], hidden: Sequence[int], shape: tuple[int, ...], neuron: Neuron, norm: bool, width: float
) -> tuple[list[nn.Module], int]:
    channels, height, breadth = shape
    layers: list[nn.Module] = []
    for entry in plan:
        if isinstance(entry, str):
            if min(height, breadth) >= 2:
                layers.append(nn.AvgPool2d(2))
                height, breadth = height // 2, breadth // 2
            continue
        outputs = max(1, round(entry * width))
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(neuron())
        channels = outputs
    layers.append(nn.Flatten())
    features = channels * height * breadth
    for size in hidden:
        features = _dense(layers, features, max(1, round(size * width)), neuron, norm)
    return layers, features


def build(
    name: str,
    *,
    input_shape: Sequence[int],
    classes: int,
    steps: int = 4,
    domain: Domain = "image",
    encoder: str | None = None,
    readout: str = "membrane",
    norm: str = "batch",
    channels: float = 1.0,
    leak: float = 0.5,
    threshold: float | None = None,
    reset: str = "hard",
    detach_reset: bool = False,
    surrogate: str = "triangular",
    width: float = 1.0,
    learn: bool = False,
    neuron: str = "lif",
    initial: float = 0.0,
    levels: int = 15,
    sparsity: float = 0.0,
    max_count: int | None = None,
    seed: int = 0,
) -> SpikingNetwork:
    """A bundled network with fresh weights, the same for the same arguments.

    Args:
        name: one of `MODELS`.
        input_shape: (C, H, W) for images, (T, 2, H, W) for event frames.
        encoder: "direct" for images and "frames" for events unless given.
        norm: "batch" (over batch, time and space: tdBN without its threshold scale) or "none".
        channels: multiplies the number of channels and hidden units.
        neuron: one of `NEURONS`. "qcfs" has one step whatever `steps` says; "bit-serial" has no normalisation, and the readout
            "bits". Both take images with the encoder "direct".
        leak, threshold, reset, detach_reset, initial: see `Dynamics`; the threshold is 1, with "qcfs" 8 at the start, unless
            given. `surrogate`, `width`: see `Surrogate`.
        learn: makes leak and threshold parameters of each layer.
        levels, sparsity: see `QCFS`.
    """
    threshold = threshold if threshold is not None else 8.0 if neuron == "qcfs" else 1.0
    steps = 1 if neuron == "qcfs" else steps
    readout = "bits" if neuron == "bit-serial" else readout
    arguments = stated({key: value for key, value in locals().items() if key != "name"})
    if name not in MODELS:
        raise ConfigError(f"Unknown model {name!r}. Known: {', '.join(MODELS)}.")
    if norm not in ("batch", "none"):
        raise ConfigError(f"Expected norm 'batch' or 'none', got {norm!r}.")
    if not (math.isfinite(channels) and 0 < channels <= 64):
        raise ConfigError(f"Expected channels, a factor, above 0 and up to 64, got {channels}.")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ConfigError(f"Expected a seed in 0..2^63-1, got {seed!r}.")
    encoder = encoder or ("direct" if domain == "image" else "frames")
    if (encoder == "frames") == (domain == "image"):
        raise ConfigError(f"The encoder {encoder!r} does not fit the domain {domain!r}: events take 'frames', images any other.")
    _check_neuron(neuron, encoder, readout, norm)
    rank = 3 if domain == "image" else 4
    if len(input_shape) != rank:
        raise ConfigError(f"Expected an input shape of {rank} sizes for the domain {domain!r}, got {tuple(input_shape)}.")
    arguments.update(encoder=encoder, input_shape=list(input_shape))
    frame = tuple(input_shape[-3:])
    dynamics = Dynamics(leak, threshold, reset, detach_reset, initial=initial)  # type: ignore[arg-type]
    make: dict[str, Neuron] = {
        "lif": lambda: SpikingNeuron(dynamics, Surrogate(surrogate, width), learn=learn),
        "qcfs": lambda: QCFS(levels, threshold, sparsity),
        "bit-serial": lambda: BitSerial(steps, Surrogate(surrogate, width)),
    }

    spec = ModelSpec(domain, tuple(input_shape), classes, steps, encoder, readout, find_encoder(encoder).stochastic, max_count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "mlp":
            layers, features = _mlp(frame, make[neuron], norm == "batch", channels)
        else:
            layers, features = _convolutional(*_VGG[name], frame, make[neuron], norm == "batch", channels)
        layers.append(nn.Linear(features, classes))
        if readout == "spike-count":
            layers.append(make[neuron]())
        return SpikingNetwork(nn.Sequential(*layers), spec, {"name": name, "arguments": arguments})


def stated(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `build` as an architecture states them: those that came later only where they are not the default, so that
    the hash of a network from before stays."""
    return {key: value for key, value in arguments.items() if value != _LATER.get(key, ...)}


def _check_neuron(neuron: str, encoder: str, readout: str, norm: str) -> None:
    if neuron not in NEURONS:
        raise ConfigError(f"Unknown neuron {neuron!r}. Known: {', '.join(NEURONS)}.")
    if neuron != "lif" and encoder != "direct":
        raise ConfigError(f"The neuron {neuron!r} takes images with the encoder 'direct', got the encoder {encoder!r}.")
    if (neuron == "bit-serial") != (readout == "bits") or (neuron == "qcfs" and readout != "membrane"):
        raise ConfigError(f"The neuron {neuron!r} does not have the readout {readout!r}.")
    if neuron == "bit-serial" and norm != "none":
        raise ConfigError(f"The neuron 'bit-serial' takes norm 'none', got {norm!r}: fold the normalisation into the weights.")


def rebuild(architecture: dict[str, Any]) -> SpikingNetwork:
    """The network that `architecture` (name and arguments, as in config.json) describes, with fresh weights."""
    known = set(inspect.signature(build).parameters) - {"name"}
    arguments = architecture.get("arguments")
    if not isinstance(architecture.get("name"), str) or not isinstance(arguments, dict) or set(arguments) - known:
        raise ConfigError(f"Expected an architecture with a name and arguments among {sorted(known)}, got {architecture}.")
    return build(architecture["name"], **arguments)
