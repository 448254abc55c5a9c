"""What the bundled architectures are put together from: convolutions, linear layers, normalisations and neurons of one choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from trustsnn.models.norms import BatchNormThroughTime, group_norm
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate

Shape = tuple[int, ...]  # of a frame: channels, height, width
Layers = list[nn.Module]

LARGE = 64  # pixels from which on a network begins as for ImageNet: it divides height and width by 16 or more


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The choices of `trustsnn.models.build` that concern single layers."""

    neuron: Callable[[], SpikingNeuron]
    dynamics: Dynamics
    surrogate: Surrogate
    learn: bool
    norm: str
    steps: int
    channels: float
    merge: str | None
    heads: int | None
    shortcut: str | None

    def width(self, channels: int, multiple: int = 1) -> int:
        """That many channels by the network's factor, in multiples."""
        return max(1, round(channels * self.channels / multiple)) * multiple

    def attention_neuron(self) -> SpikingNeuron:
        """Neurons for sums over tokens, which no normalisation scales: threshold 0.5 and gain 1 - leak, as in the authors'
        code."""
        gain = "leaky" if self.dynamics.leak < 1 else "unit"
        return SpikingNeuron(replace(self.dynamics, threshold=0.5, gain=gain), self.surrogate, learn=self.learn)  # type: ignore[arg-type]

    def convolution(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, residual: bool = False) -> Layers:
        """A convolution that keeps the size but for its stride, and its normalisation. `residual`: of a current to which another
        one is added; tdBN then starts at 1/sqrt(2) of the threshold."""
        padding = (kernel - 1) // 2
        layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=self.norm == "none")
        return [layer, *self._norm(nn.BatchNorm2d, outputs, 0.5**0.5 if residual else 1.0)]

    def dense(self, inputs: int, outputs: int) -> Layers:
        """A linear layer and its normalisation."""
        return [nn.Linear(inputs, outputs, bias=self.norm == "none"), *self._norm(nn.BatchNorm1d, outputs, 1.0)]

    def _norm(self, kind: type[nn.BatchNorm1d | nn.BatchNorm2d], features: int, alpha: float) -> Layers:
        if self.norm == "none":
            return []
        if self.norm == "group":
            return [group_norm(features)]
        if self.norm == "bntt":
            return [BatchNormThroughTime(features, self.steps, flat=kind is nn.BatchNorm1d)]
        norm = kind(features)
        if self.norm == "td":
            nn.init.constant_(norm.weight, alpha * self.dynamics.threshold)
        return [norm]


@dataclass(frozen=True)
class Family:
    """Architectures of one kind: plans by name, what makes the layers and the number of features of a plan, and which of the
    options "neuron", "merge", "heads", "shortcut" of `trustsnn.models.build` they have."""

    plans: Mapping[str, Any]
    layers: Callable[[Any, Parts, Shape], tuple[Layers, int]]
    options: tuple[str, ...] = ()


def pooled(features: int, size: tuple[int, int]) -> tuple[Layers, int]:
    """The mean over all pixels of maps of that `size`, and the number of features that it leaves."""
    return [nn.AvgPool2d(size), nn.Flatten()], features


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width behind a stride of 2, rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
