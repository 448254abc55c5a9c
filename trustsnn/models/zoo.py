"""The bundled architectures by name, each for images or event frames."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from trustsnn.encoders import encoder as find_encoder
from trustsnn.errors import ConfigError
from trustsnn.models import ms_resnet, plain, resnet, sew_resnet, spike_driven, spikformer
from trustsnn.models.catalogue import BUILDERS, MODELS
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.norms import NORMS
from trustsnn.models.parts import Family, Parts
from trustsnn.models.spec import Domain, ModelSpec
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate
from trustsnn.neurons.bitserial import BitSerial
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.qcfs import QCFS
from trustsnn.neurons.relu import ReLU
from trustsnn.plugins import load_object

NEURONS = {
    "lif": "leaky integrate-and-fire",
    "qcfs": "no spikes: the quantised activation of an ANN that is to be converted, T = 1",
    "bit-serial": "T spikes are the T bits of an activation",
    "relu": "no spikes: the activation of an ANN that is to be converted by calibration, T = 1",
    "calibrated": "leaky integrate-and-fire after such a conversion",
}
_STILL = ("qcfs", "relu")  # have one step
FAMILIES = (plain.FAMILY, resnet.FAMILY, sew_resnet.FAMILY, ms_resnet.FAMILY, *spikformer.FAMILIES, spike_driven.FAMILY)
_LATER = {
    **{"neuron": "lif", "levels": 15, "sparsity": 0.0, "initial": 0.0, "merge": None, "heads": None, "potentials": None},
    **{"comparator": ">=", "gain": "unit", "shortcut": None},
}


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
    potentials: Sequence[Sequence[int]] | None = None,
    max_count: int | None = None,
    merge: str | None = None,
    heads: int | None = None,
    comparator: str = ">=",
    gain: str = "unit",
    shortcut: str | None = None,
    seed: int = 0,
) -> SpikingNetwork:
    """A bundled network with fresh weights, the same for the same arguments.

    Args:
        name: one of `MODELS`.
        input_shape: (C, H, W) for images, (T, 2, H, W) for event frames.
        encoder: "direct" for images and "frames" for events unless given.
        norm: one of `NORMS`.
        channels: multiplies the number of channels and hidden units; that of a token's channels goes in multiples of 32.
        neuron: one of `NEURONS`. "qcfs" and "relu" have one step whatever `steps` says; "bit-serial" has no normalisation, and
            the readout "bits". All but "lif" take images with the encoder "direct", and `mlp`, `conv`, VGG or ResNet.
        leak, threshold, reset, detach_reset, initial, comparator, gain: see `Dynamics`; the threshold is 1, with "qcfs" 8 at the start, unless
            given. `surrogate`, `width`: see `Surrogate`.
        learn: makes leak and threshold parameters of each layer.
        levels, sparsity: see `QCFS`.
        potentials: of each layer of "calibrated" neurons the shape of its initial potentials; None where they have none.
        merge: of a SEW-ResNet: "add" unless given, "and" or "iand".
        heads: of the attention of a Spikformer or Spikingformer; one for 32 channels unless given, with 8 blocks for 64 where
            that divides them.
        shortcut: "scaled" gives the shortcuts of a ResNet a weight for each channel, as a converted one has them.
    """
    threshold = threshold if threshold is not None else 8.0 if neuron == "qcfs" else 1.0
    steps = 1 if neuron in _STILL else steps
    readout = "bits" if neuron == "bit-serial" else readout
    arguments = stated({key: value for key, value in locals().items() if key != "name"})
    if name not in MODELS:
        raise ConfigError(f"Unknown model {name!r}. Known: {', '.join(MODELS)}.")
    if norm not in NORMS:
        raise ConfigError(f"Expected norm 'td', 'bntt', 'group', 'batch' or 'none', got {norm!r}.")
    if not (math.isfinite(channels) and 0 < channels <= 64):
        raise ConfigError(f"Expected channels, a factor, above 0 and up to 64, got {channels}.")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ConfigError(f"Expected a seed in 0..2^63-1, got {seed!r}.")
    encoder = encoder or ("direct" if domain == "image" else "frames")
    if (encoder == "frames") == (domain == "image"):
        raise ConfigError(f"The encoder {encoder!r} does not fit the domain {domain!r}: events take 'frames', images any other.")
    _check_neuron(neuron, encoder, readout, norm)
    if neuron != "lif" and (comparator, gain) != (">=", "unit"):
        raise ConfigError(f"comparator and gain are of the neuron 'lif', got the neuron {neuron!r}.")
    family = _family(name, {"neuron": None if neuron == "lif" else neuron, "merge": merge, "heads": heads, "shortcut": shortcut})
    rank = 3 if domain == "image" else 4
    if len(input_shape) != rank:
        raise ConfigError(f"Expected an input shape of {rank} sizes for the domain {domain!r}, got {tuple(input_shape)}.")
    arguments.update(encoder=encoder, input_shape=list(input_shape))
    frame = tuple(input_shape[-3:])
    dynamics = Dynamics(leak, threshold, reset, detach_reset, comparator, gain, initial)  # type: ignore[arg-type]
    how = Surrogate(surrogate, width)
    shapes = iter(potentials or ())
    make: dict[str, Callable[[], SpikingNeuron]] = {
        "lif": lambda: SpikingNeuron(dynamics, how, learn=learn),
        "qcfs": lambda: QCFS(levels, threshold, sparsity),
        "bit-serial": lambda: BitSerial(steps, how),
        "relu": ReLU,
        "calibrated": lambda: Calibrated(dynamics, how, learn=learn, shape=next(shapes, None)),
    }
    parts = Parts(
        neuron=make[neuron], dynamics=dynamics, surrogate=how, learn=learn, norm=norm, steps=steps, channels=channels,
        merge=merge, heads=heads, shortcut=shortcut,
    )  # fmt: skip

    spec = ModelSpec(domain, tuple(input_shape), classes, steps, encoder, readout, find_encoder(encoder).stochastic, max_count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers, features = family.layers(family.plans[name], parts, frame)
        layers.append(nn.Linear(features, classes))
        if readout == "spike-count":
            layers.append(make[neuron]())
        return SpikingNetwork(nn.Sequential(*layers), spec, {"name": name, "arguments": arguments})


def _family(name: str, options: dict[str, Any]) -> Family:
    """The family of an architecture, which must have every option that is given."""
    family = next(family for family in FAMILIES if name in family.plans)
    for option, value in options.items():
        if value is not None and option not in family.options:
            others = [other for each in FAMILIES if option in each.options for other in each.plans]
            raise ConfigError(f"The model {name!r} does not take {option} = {value!r}. Models that do: {', '.join(others)}.")
    return family


def stated(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `build` as an architecture states them: those that came later only where they are not the default, so that
    the hash of a network from before stays."""
    return {key: value for key, value in arguments.items() if value != _LATER.get(key, ...)}


def _check_neuron(neuron: str, encoder: str, readout: str, norm: str) -> None:
    if neuron not in NEURONS:
        raise ConfigError(f"Unknown neuron {neuron!r}. Known: {', '.join(NEURONS)}.")
    if neuron != "lif" and encoder != "direct":
        raise ConfigError(f"The neuron {neuron!r} takes images with the encoder 'direct', got the encoder {encoder!r}.")
    if (neuron == "bit-serial") != (readout == "bits") or (neuron in _STILL and readout != "membrane"):
        raise ConfigError(f"The neuron {neuron!r} does not have the readout {readout!r}.")
    if neuron == "bit-serial" and norm != "none":
        raise ConfigError(f"The neuron 'bit-serial' takes norm 'none', got {norm!r}: fold the normalisation into the weights.")


def rebuild(architecture: dict[str, Any]) -> nn.Module:
    """The network that `architecture` (name and arguments, as in config.json) describes, with fresh weights."""
    name, arguments = architecture.get("name"), architecture.get("arguments")
    builder = load_object(BUILDERS[name]) if name in BUILDERS else build
    known = list(inspect.signature(builder).parameters)
    if not isinstance(name, str) or not isinstance(arguments, dict) or set(arguments) - set(known) - {"name"}:
        raise ConfigError(f"Expected an architecture with a name and arguments among {sorted(known)}, got {architecture}.")
    found: nn.Module = builder(*([name] if "name" in known else []), **arguments)
    return found
