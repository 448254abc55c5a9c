"""Spikes on their way between layers: lost, or moved in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError
from trustsnn.hardware.twin import Layer, Twin
from trustsnn.models.gates import Drawn, normal, uniform
from trustsnn.neurons.operation import Operation
from trustsnn.settings import setting


@dataclass(frozen=True, kw_only=True)
class SpikeLoss(Twin):
    """Each spike is lost with a probability, for itself: a packet that the network on the chip drops. The gradient is that of the
    spikes that arrive.

    Args:
        probability: of a spike to be lost, in [0, 1]. No publication sets it; 0 leaves the network deterministic.
    """

    probability: float = setting(0.01, 0.0, 1.0)

    name: ClassVar[str] = "spike-loss"

    @property
    def stochastic(self) -> bool:
        return False

    def transport(self, layer: Layer, steps: int) -> nn.Module | None:
        """The loss."""
        return _Lossy(1 - self.probability) if self.probability else None


@dataclass(frozen=True, kw_only=True)
class Jitter(Twin):
    """Each spike comes round(N(0, deviation^2)) steps later, or earlier, than it was fired, and no earlier than the first step nor later
    than the last one; of spikes of a neuron that meet one is left. The gradient of a spike is that of the place that it moved to;
    where there is none, of the place that one would have moved to.

    Args:
        deviation: sigma_t, in time steps. No publication sets it; 0 leaves the network deterministic.
    """

    deviation: float = setting(1.0)

    name: ClassVar[str] = "jitter"

    @property
    def stochastic(self) -> bool:
        return False

    def transport(self, layer: Layer, steps: int) -> nn.Module | None:
        """The moves."""
        return _Jittered(self.deviation, steps) if self.deviation else None


class _Lossy(Drawn):
    spikes: ClassVar[bool] = True

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """The spikes that arrive."""
        return h * (uniform(generator, part, h) < self.keep)

    def over_time(self) -> nn.Module:
        """What this is in the mean over its draws."""
        return _Kept(self.keep)


class _Kept(nn.Module):
    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, h: Tensor) -> Tensor:
        return h * self.keep


class _Jittered(Drawn):
    spikes: ClassVar[bool] = True

    def __init__(self, deviation: float, steps: int) -> None:
        super().__init__()
        self.deviation, self.steps = deviation, steps

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """The spikes where they arrive."""
        if part is not None and len(part) < self.steps:
            raise ConfigError(
                f"Jitter moves spikes between any of the {self.steps} time steps: run all of them at once, not {part}."
            )
        moves = (self.deviation * normal(generator, part, h)).round().long().unflatten(0, (self.steps, -1))
        fired = h.unflatten(0, (self.steps, -1))
        now = torch.arange(self.steps, device=h.device).view(-1, *[1] * (fired.dim() - 1))
        then = (now + moves).clamp(0, self.steps - 1)
        arrived: Tensor = _Moved.apply(fired, then)
        return arrived.flatten(0, 1)


class _Moved(Operation):
    """Spikes [T, ...] at the steps `then` [T, ...], of those that meet the largest. The gradient of each is that of its place."""

    @staticmethod
    def forward(fired: Tensor, then: Tensor) -> Tensor:
        return torch.zeros_like(fired).scatter_reduce_(0, then, fired, "amax")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (then,) = ctx.saved_tensors
        return gradients[0].gather(0, then), None
