"""Image sensors: the first layer computed in the sensor, and the noise of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError
from trustsnn.hardware.converters import Noisy, Quantised, check_sums
from trustsnn.hardware.twin import Chip, Layer, Twin
from trustsnn.models.gates import Drawn, normal
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons.synapses import Synapses
from trustsnn.settings import setting


class _Held(Noisy):
    """Noise that is drawn once for each sample and output, and held over the time steps."""

    held: ClassVar[bool] = True

    def drawn(self, h: Tensor, part: range | None, generator: Generator) -> Tensor:
        steps = 1 if part is None else len(part)
        return torch.cat([super().drawn(h[: len(h) // steps], range(1), generator)] * steps)


@dataclass(frozen=True, kw_only=True)
class InSensor(Twin):
    """The first layer computed by the pixels, before anything is digital: analog noise on its sums, then a converter of few bits, then
    the first spikes. Processing in the pixel is P2M (Datta 2022, arXiv 2203.04737); noise given as a ratio to the signal and 4 bits
    behind it are RedEye (LiKamWa, ISCA 2016), which runs at 40 dB, 1 % of its amplitude.

    The converter of an output spans all that its weights can give for pixels in [0, 1], so that it never clips a sum: from b + the
    sum of the negative weights to b + the sum of the positive ones, a span of sum |w|, in 2^bits even values with both ends. The
    image is read once: noise is drawn for each sample and output and held over the time steps.

    Args:
        bits: of the converter.
        noise: standard deviation of the noise on a sum, in units of the span of its output. Without it the network stays deterministic.
    """

    bits: int = setting(4, 1, 16)
    noise: float = setting(0.01)

    name: ClassVar[str] = "in-sensor"

    @property
    def stochastic(self) -> bool:
        return False

    def check(self, network: nn.Module) -> None:
        check_sums(self, network)
        assert isinstance(network, SpikingNetwork)
        spec, first = network.spec, next((layer for layer in network.layers if not isinstance(layer, nn.Flatten)), None)
        if spec.domain != "image" or spec.encoder != "direct":
            raise ConfigError(
                f"The twin {self.name!r} computes on pixels that are held while the network runs: it is for images under the encoder "
                f"'direct', got the domain {spec.domain!r} under {spec.encoder!r}."
            )
        if first is None or not Synapses.can(first):
            raise ConfigError(
                f"The twin {self.name!r} needs a network that begins with a convolution or a linear layer, got {type(first).__name__}."
            )

    def outputs(self, layer: Layer) -> nn.Module | None:
        """Noise and the converter of the first layer."""
        if not layer.first:
            return None
        assert layer.synapses is not None
        weight, bias = layer.synapses.weight.flatten(1), layer.synapses.bias
        span = weight.abs().sum(1)
        centre = weight.sum(1) / 2 if bias is None else bias + weight.sum(1) / 2
        converter = Quantised(centre, span / 2, 2**self.bits - 1)
        return _Held(self.noise * span, converter) if self.noise else converter


@dataclass(frozen=True, kw_only=True)
class SensorNoise(Twin):
    """A camera's noise on the pixels of an image in [0, 1], where 1 is a full well: x + sqrt(x / full_well + (read / full_well)^2) xi,
    clipped to [0, 1], the linear camera model of EMVA 1288 with the photons' Poisson noise as a normal one. Gradients go straight through.

    Args:
        full_well: electrons. 10,000 is typical of machine vision.
        read: noise of the read-out, in electrons.
    """

    full_well: float = setting(10_000.0, above=True)
    read: float = setting(3.0)

    name: ClassVar[str] = "sensor-noise"

    @property
    def stochastic(self) -> bool:
        return False

    def check(self, network: nn.Module) -> None:
        assert isinstance(network, SpikingNetwork)
        if network.spec.domain != "image":
            raise ConfigError(
                f"The twin {self.name!r} is a camera for images, got the domain {network.spec.domain!r}. See 'dvs-noise'."
            )

    def sensor(self, spec: ModelSpec, chip: Chip) -> nn.Module:
        """The pixels with their noise."""
        return _Exposed(self.full_well, self.read)


class _Exposed(Drawn):
    def __init__(self, full_well: float, read: float) -> None:
        super().__init__()
        self.full_well, self.read = full_well, read

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """The image [B, ...] as it is read."""
        variance = h.detach().clamp_min(0) / self.full_well + (self.read / self.full_well) ** 2
        noisy = (h.detach() + variance.sqrt() * normal(generator, part, h).to(h.dtype)).clamp(0, 1)
        return noisy + (h - h.detach())
