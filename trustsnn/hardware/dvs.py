"""The noise of an event camera, added to event frames (v2e, Hu 2021, arXiv 2006.07722)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError
from trustsnn.hardware.twin import Chip, Twin
from trustsnn.models.gates import Drawn, uniform
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.settings import setting

_LEAST_THRESHOLD = 0.01  # as in v2e, below which no pixel's threshold falls


@dataclass(frozen=True, kw_only=True)
class DVSNoise(Twin):
    """Events that no light made, added to the frames [B, T, 2, H, W] of a network of events: v2e's noise at its default settings.

    - Shot noise: a Poisson process in each pixel, half ON and half OFF, each times threshold / (threshold of the pixel). The rate is
      that of the dark, as v2e has it; in full light v2e has a quarter of it, which frames do not tell.
    - Leak: ON events of a pixel at even intervals, from a random phase for each sample. Rates are log-normal over the pixels; those at
      the upper end are the hot pixels.
    - Refractory period: a pixel is deaf for that long after an event, so that shot noise at a rate r comes at r / (1 + r refractory),
      and not while the frame's own events hold the pixel. That noise hides events of the frame, and v2e's jitter of the leak, are left out.

    Thresholds and rates of pixels are drawn once for a chip. Binary frames stay binary, counts stay whole numbers up to `max_count`: what
    would exceed the ceiling is lost. Gradients go straight through. Channel 1 is ON. Rates are good to 6e-8 events a pixel and frame.

    Args:
        shot: rate of shot noise, in Hz for each pixel, both polarities together.
        leak: median rate of leak events, in Hz for each pixel.
        threshold: contrast of an event, in log intensity.
        threshold_spread: its standard deviation over pixels and polarities, in log intensity.
        rate_spread: standard deviation of the leak rate over pixels, in decades.
        refractory: in seconds.
        frame: how long a frame lasts, in seconds. 31.5 ms is a recording of 315 ms (N-MNIST) in ten frames.
    """

    shot: float = setting(0.001)
    leak: float = setting(0.01)
    threshold: float = setting(0.2, above=True)
    threshold_spread: float = setting(0.03)
    rate_spread: float = setting(0.1)
    refractory: float = setting(0.0005)
    frame: float = setting(0.0315, above=True)

    name: ClassVar[str] = "dvs-noise"

    def check(self, network: nn.Module) -> None:
        assert isinstance(network, SpikingNetwork)
        if network.spec.domain == "image":
            raise ConfigError(f"The twin {self.name!r} is a camera for events, got the domain 'image'. See 'sensor-noise'.")

    def sensor(self, spec: ModelSpec, chip: Chip) -> nn.Module:
        """The frames with the events of the noise."""
        draws, size = chip.draws("dvs"), spec.input_shape[2:]
        thresholds = self.threshold + self.threshold_spread * draws.standard_normal((2, *size))
        shot = self.shot / 2 * self.threshold / np.maximum(thresholds, _LEAST_THRESHOLD)
        shot /= 1 + shot.sum(0) * self.refractory
        leak = self.leak * 10 ** (self.rate_spread * draws.standard_normal(size))
        shot_frame, leak_frame = (torch.from_numpy(rate * self.frame).float() for rate in (shot, leak))
        return _WithNoise(shot_frame, leak_frame, self.refractory / self.frame, spec.max_count or 1)


@dataclass(frozen=True, kw_only=True)
class NoisyDVS(DVSNoise):
    """The same at the settings that v2e calls noisy, for little light."""

    shot: float = setting(5.0)
    leak: float = setting(0.1)
    threshold_spread: float = setting(0.05)
    refractory: float = setting(0.0)

    name: ClassVar[str] = "dvs-noisy"


class _WithNoise(Drawn):
    """Frames with noise: `shot` [2, H, W] and `leak` [H, W] in events a frame, `deaf` the share of a frame after an event."""

    shot: Tensor
    leak: Tensor

    def __init__(self, shot: Tensor, leak: Tensor, deaf: float, ceiling: int) -> None:
        super().__init__()
        self.register_buffer("shot", shot)
        self.register_buffer("leak", leak)
        self.deaf, self.ceiling = deaf, ceiling

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """The frames [B, T, 2, H, W] with the events of the noise."""
        frames = h.detach()
        steps = frames.shape[1]
        drawn = uniform(generator, part, frames.new_empty((len(frames), 2 * steps + 1, *frames.shape[3:])))
        awake = (1 - self.deaf * frames.sum(2, keepdim=True)).clamp_min(0)
        events = poisson(drawn[:, :-1].view_as(frames), self.shot * awake, self.ceiling)
        ends = torch.arange(steps + 1, device=frames.device).view(-1, 1, 1)
        leaks = (drawn[:, -1:] + self.leak * ends).floor().diff(dim=1)
        events[:, :, 1] += leaks.to(events.dtype)
        noisy = (frames + events).clamp_max(self.ceiling)
        return noisy + (h - frames)


def poisson(uniform: Tensor, mean: Tensor, most: int) -> Tensor:
    """The Poisson counts of these means for uniform draws in [0, 1), by inversion from the largest count down, at most `most`."""
    count, chance, more = torch.zeros_like(mean), (-mean).exp(), -(-mean).expm1()
    for number in range(1, most + 1):
        reached = uniform < more  # more: the chance of at least `number` events
        if not reached.any():
            break
        count += reached.to(count.dtype)
        chance = chance * mean / number
        more = more - chance
    return count
