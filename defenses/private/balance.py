"""The start of a private conversion: thresholds by the currents that spikes drive, without a real sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trustsnn.blocks import frozen
from trustsnn.conversion.fold import rescaled_layers
from trustsnn.conversion.segments import Segment, check_foldable, current, rectified, segments
from trustsnn.conversion.thresholds import with_thresholds
from trustsnn.data import Dataset
from trustsnn.encoders import encoder as find_encoder
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import stated
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate
from trustsnn.rng import Draws

_BATCH = 32


def check_convertible(ann: SpikingNetwork, steps: int) -> None:
    """ConfigError for an ANN that `spiking_start` does not take, or for no steps."""
    if steps < 1:
        raise ConfigError(f"Expected a number of steps of at least 1 for the conversion 'private', got {steps}.")
    check_foldable(ann)
    if not rectified(ann):
        raise ConfigError(
            "The conversion 'private' takes an ANN whose layers are all ReLU. Train one with: trustsnn train ann --model ... --data ..."
        )


def spiking_start(
    ann: SpikingNetwork,
    samples: Dataset,
    steps: int,
    *,
    encoder: str = "poisson",
    scale: float = 0.5,
    surrogate: str = "triangular",
    width: float = 1.0,
    seed: int = 0,
) -> SpikingNetwork:
    """The ANN as integrate-and-fire neurons with soft reset and the thresholds of `largest_currents` times `scale`, to be trained on.

    Normalisation is folded into weights and biases, a bias being a constant current; the published networks have neither. In the units
    of the new network a spike is 1 and every threshold 1.

    Raises:
        ConfigError: no ReLU network, one with branches, or an encoder that is not for images.
    """
    check_convertible(ann, steps)
    if encoder == "frames":
        raise ConfigError("Expected an encoder for images, got 'frames'. See the encoders of: trustsnn train bptt --help")
    if not (np.isfinite(scale) and scale > 0):
        raise ConfigError(f"Expected a positive scale of the thresholds, got {scale}.")
    dynamics, shape = Dynamics(leak=1.0, reset="soft"), Surrogate(surrogate, width)
    bounds = largest_currents(ann, samples, steps, encoder, seed)
    bounded = with_thresholds(ann, [bound * scale for bound in bounds])
    layers = rescaled_layers(bounded, lambda neuron: neuron.bound, lambda neuron: SpikingNeuron(dynamics, shape))
    arguments = stated(
        {
            **ann.architecture["arguments"], "neuron": "lif", "steps": steps, "encoder": encoder, "norm": "none", "learn": False,
            "detach_reset": False, "leak": 1.0, "threshold": 1.0, "reset": "soft", "surrogate": surrogate, "width": width,
        }
    )  # fmt: skip
    spec = replace(ann.spec, steps=steps, encoder=encoder, stochastic=find_encoder(encoder).stochastic)
    return SpikingNetwork(layers, spec, {**ann.architecture, "arguments": arguments}).eval()


def largest_currents(ann: SpikingNetwork, samples: Dataset, steps: int, encoder: str = "poisson", seed: int = 0) -> list[float]:
    """Of each layer the largest current of any neuron at any of the steps, in the ANN's units, as the spikes of the layers before it
    drive it, whose thresholds are set by then (Sengupta 2019). A spike stands for its layer's threshold."""
    bounds: list[float] = []
    with frozen(ann), torch.no_grad():
        row = segments(ann)
        for _ in row[:-1]:
            bounds.append(max(float(each.max()) for each in _currents(row, bounds, samples, steps, encoder, seed)))
            if bounds[-1] <= 0:
                raise ConfigError(
                    f"Expected {row[len(bounds) - 1].name} to be driven by the synthetic images, got no current above 0. Make more images, "
                    "with more iterations, or train the ANN longer."
                )
    return bounds


def _currents(row: list[Segment], bounds: list[float], samples: Dataset, steps: int, encoder: str, seed: int) -> Iterator[Tensor]:
    """For each batch the current [T or 1, B, ...] of the first layer without a threshold."""
    for start in range(0, len(samples), _BATCH):
        rows = range(start, min(start + _BATCH, len(samples)))
        draws = Draws(seed, "private/balance", tuple(samples.ids[i] for i in rows))
        h = find_encoder(encoder).encode(torch.from_numpy(samples.batch(rows)[0]), steps, draws)
        for segment, bound in zip(row, bounds, strict=False):
            neurons = SpikingNeuron(Dynamics(leak=1.0, threshold=bound, reset="soft"))
            h = neurons.fire(current(segment.stages, h, False), steps) * bound
        yield current(row[len(bounds)].stages, h, False)
