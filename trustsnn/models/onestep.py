"""The general one-step SNN (arXiv 2401.10843): windows of a feature map in turn in place of time steps, T = 1.

A cell cuts its input into four windows in raster order and runs the same two layers over each. The neurons' membranes are handed
from window to window inside the one time step ("group-wise"), and the spikes of the windows are put together again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.norms import group_norm
from trustsnn.models.onestep_rnn import Sweep
from trustsnn.models.spec import ModelSpec, Trace
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate
from trustsnn.neurons.unrolled import Derivatives, spike

_ANGLE = math.pi / 4


def _coded(first: Tensor, second: Tensor) -> Tensor:
    return 2 * torch.sin(_ANGLE * first * torch.cos(_ANGLE * second))


def _intended(first: Tensor, second: Tensor) -> Tensor:
    return 2 * torch.sin(_ANGLE * first) * torch.cos(_ANGLE * second)


def _mean(first: Tensor, second: Tensor) -> Tensor:
    return (first + second) / 2


PROJECTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"coded": _coded, "intended": _intended, "mean": _mean}
"""Omega(m1, m2), what the second layer hands over, elementwise; a = pi / 4.

coded: 2 sin(a m1 cos(a m2)), as in the authors' code; intended: 2 sin(a m1) cos(a m2); mean: (m1 + m2) / 2.
"""


def cut(x: Tensor, dilated: bool) -> Tensor:
    """Four windows of a feature map [B, C, H, W] in raster order, [4, B, C, h, w], each in a corner of the map.

    Plain ones have half the height and width; dilated ones have three quarters and overlap by half. What does not divide is rounded
    up: an odd side has plain windows that overlap by one, too.
    """
    return torch.stack([part for row in _two(x, dilated, 2) for part in _two(row, dilated, 3)])


def condense(parts: Tensor, dilated: bool, size: tuple[int, int]) -> Tensor:
    """The map [B, C, *size] that `cut` cut: each place is the mean of the windows it lies in, which are one, two or four."""
    above, below = (_one(left, right, dilated, size[1], 3) for left, right in (parts[:2], parts[2:]))
    return _one(above, below, dilated, size[0], 2)


def _split(size: int, dilated: bool) -> list[int]:
    """A side of that size in what the first window has for itself, what both have, and what the second one has."""
    length = -(-3 * size // 4) if dilated else -(-size // 2)
    return [size - length, 2 * length - size, size - length]


def _two(x: Tensor, dilated: bool, dim: int) -> list[Tensor]:
    parts = x.split(_split(x.shape[dim], dilated), dim)
    return [torch.cat(parts[:2], dim), torch.cat(parts[1:], dim)]


def _one(first: Tensor, second: Tensor, dilated: bool, size: int, dim: int) -> Tensor:
    alone, both, rest = _split(size, dilated)
    start, shared = first.split([alone, both], dim)
    same, end = second.split([both, rest], dim)
    return torch.cat([start, (shared + same) / 2, end], dim)


def membranes(current: Tensor, spikes: Tensor, leak: Tensor) -> list[Tensor]:
    """The membrane u before the spike at each step of a layer with hard reset, from its current and spikes [T, B, ...].

        u_t = leak (1 - s_{t-1}) u_{t-1} + x_t

    Differentiable to all three; with the gradient of the spikes through `fire` this is the chain rule of the layer.
    """
    first, *later = current.unbind(0)
    found = [first]
    for x, before in zip(later, spikes.unbind(0), strict=False):
        found.append(x + leak * (1 - before) * found[-1])
    return found


class ProjectedNeuron(SpikingNeuron):
    """A layer of LIF neurons with hard reset over windows that hands on a projection of two layers' membranes.

        u_k = leak (1 - s_{k-1}) Omega(m_{k-1}, u_{k-1}) + x_k,   s_k = 1[u_k >= V]

    with m the membranes of the layer before it. Autograd differentiates the recursion, the gradient estimator the spike.
    """

    def __init__(self, projection: str, dynamics: Dynamics, surrogate: Surrogate, *, learn: bool = False) -> None:
        super().__init__(dynamics, surrogate, learn=learn)
        self.projection = projection

    def forward(self, current: Tensor, other: Sequence[Tensor] = ()) -> Tensor:
        """Spikes [4, B, ...] for the current, of the same shape, and the membranes [B, ...] of the layer before it in each window."""
        leak, threshold = self.parameters_in_bounds()
        project = PROJECTIONS[self.projection]
        derivatives = Derivatives(self, current, threshold)
        first, *later = current.unbind(0)
        membrane, spikes = first, [spike(first - threshold, derivatives)]
        for x, handed in zip(later, other[:-1], strict=True):
            membrane = x + leak * (1 - spikes[-1]) * project(handed, membrane)
            spikes.append(spike(membrane - threshold, derivatives))
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, projection={self.projection}"


class WindowCell(nn.Module):
    """Current, spikes, current, spikes over the windows of a map [B, C, H, W]; gives what the spikes condense to, [B, C', H, W].

    The first layer hands its membrane m1 from window to window as it is, so that the windows are its time steps; the second
    hands on Omega(m1, m2). Of overlapping windows the output is a mean of spikes and no longer binary.

    Args:
        currents: what gives each layer's current, for windows [N, C, h, w].
        first, second: the layers of neurons.
        dilated: as in `cut`.
    """

    def __init__(
        self, currents: tuple[nn.Module, nn.Module], first: SpikingNeuron, second: SpikingNeuron, *, dilated: bool
    ) -> None:
        super().__init__()
        self.currents = nn.ModuleList(currents)
        self.first, self.second = first, second
        self.dilated = dilated

    def forward(self, x: Tensor) -> Tensor:
        """The condensed spikes."""
        parts = cut(x, self.dilated)
        current = self._current(0, parts)
        spikes = self.first(current)
        if isinstance(self.second, ProjectedNeuron):
            other = membranes(current, spikes, self.first.parameters_in_bounds()[0])
            fired = self.second(self._current(1, spikes), other)
        else:  # what takes a neuron's place hands nothing on
            fired = self.second(self._current(1, spikes))
        return condense(fired, self.dilated, (x.shape[2], x.shape[3]))

    def _current(self, layer: int, parts: Tensor) -> Tensor:
        return self.currents[layer](parts.flatten(0, 1)).unflatten(0, parts.shape[:2])  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"dilated={self.dilated}"


class OneStepNetwork(SpikingNetwork):
    """A `SpikingNetwork` of one time step with `WindowCell`s among its layers, whose neurons `unroll` counts, too: [B, 4, ...],
    a place for each window, so that a rate stays in [0, 1]."""

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """Logits and membrane [1, B, K], and the spikes of every layer of neurons by its name."""
        counts: dict[str, Tensor] = {}

        def count(name: str, module: nn.Module, given: Any, fired: Tensor) -> None:
            counts[name] = fired.detach().transpose(0, 1)

        neurons = [(name, module) for name, module in self.named_modules() if isinstance(module, SpikingNeuron)]
        hooks = [neuron.register_forward_hook(partial(count, name)) for name, neuron in neurons]
        try:
            logits = self(x, generator).unsqueeze(0)
        finally:
            for hook in hooks:
                hook.remove()
        return Trace(logits, counts, logits.detach())


ONE_STEP = {"onestep": (64, 128, 256, 512), "onestep-rnn": (16, 32, 64)}
"""The channels of each stage, whose cells take their currents from convolutions, or from LSTMs over rows and columns."""

WINDOWS = {
    "alternating": "every second cell has dilated windows; those of the last stage are plain",
    "plain": "every cell has plain windows",
    "none": "the whole map over `steps` time steps, each layer with a membrane of its own: the cell as a conventional SNN",
}


def build_onestep(
    name: str = "onestep",
    *,
    input_shape: Sequence[int],
    classes: int,
    steps: int = 1,
    windows: str = "alternating",
    projection: str = "coded",
    norm: str = "batch",
    channels: float = 1.0,
    depth: int = 1,
    leak: float = 0.4,
    threshold: float = 0.5,
    surrogate: str = "rectangular",
    width: float = 0.5,
    learn: bool = False,
    seed: int = 0,
) -> SpikingNetwork:
    """A one-step network for images [C, H, W] with fresh weights, the same for the same arguments.

    Stages of cells, each followed by average pooling by 2, then a linear layer. "onestep" has 4.7 M parameters for CIFAR-10,
    and 26.8 M, as many as the paper's network, with `channels` = 2.39; how those of the paper are laid out is not known.

    Args:
        name: one of `ONE_STEP`.
        steps: 1, but with windows "none".
        windows: one of `WINDOWS`.
        projection: one of `PROJECTIONS`.
        norm: "batch" or "group", see `trustsnn.models.norms.NORMS`.
        channels: multiplies the channels of each stage.
        depth: cells in a stage.
        leak, threshold, surrogate, width, learn: see `Dynamics` and `Surrogate`; the authors' values unless given.
    """
    arguments = {**{key: value for key, value in locals().items() if key != "name"}, "input_shape": list(input_shape)}
    if norm == "batch":
        del arguments["norm"]  # which came later: the hash of a network from before stays
    _check(name, tuple(input_shape), steps, windows, projection, norm, channels, depth, seed)
    dynamics, slope = Dynamics(leak, threshold), Surrogate(surrogate, width)
    spec = ModelSpec("image", tuple(input_shape), classes, steps, "direct", "membrane", stochastic=False)
    stages = [max(2, 2 * round(count * channels / 2)) for count in ONE_STEP[name] for _ in range(depth)]
    layers: list[nn.Module] = []
    inputs, height, breadth = input_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place, outputs in enumerate(stages):
            dilated = windows == "alternating" and place % 2 == 1 and place < len(stages) - depth
            one, two = _current(name, inputs, outputs, 3, norm), _current(name, outputs, outputs, 2, norm)
            first = SpikingNeuron(dynamics, slope, learn=learn)
            if windows == "none":
                layers += [*one, first, *two, SpikingNeuron(dynamics, slope, learn=learn)]
            else:
                second = ProjectedNeuron(projection, dynamics, slope, learn=learn)
                layers.append(WindowCell((one, two), first, second, dilated=dilated))
            if place % depth == depth - 1 and min(height, breadth) >= 2:
                layers.append(nn.AvgPool2d(2))
                height, breadth = height // 2, breadth // 2
            inputs = outputs
        layers += [nn.Flatten(), nn.Linear(inputs * height * breadth, classes)]
    network = SpikingNetwork if windows == "none" else OneStepNetwork
    return network(nn.Sequential(*layers), spec, {"name": name, "arguments": arguments})


def _current(name: str, inputs: int, outputs: int, axis: int, norm: str) -> nn.Sequential:
    """What gives a layer its current: a convolution, or an LSTM along an axis, and normalisation."""
    behind = group_norm(outputs) if norm == "group" else nn.BatchNorm2d(outputs)
    if name == "onestep-rnn":
        return nn.Sequential(Sweep(inputs, outputs, axis), behind)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), behind)


def _check(
    name: str, input_shape: tuple[int, ...], steps: int, windows: str, projection: str, norm: str, channels: float, depth: int,
    seed: int,
) -> None:  # fmt: skip
    options = (
        ("model", name, ONE_STEP), ("windows", windows, WINDOWS), ("projection", projection, PROJECTIONS),
        ("norm", norm, ("batch", "group")),
    )  # fmt: skip
    for what, given, known in options:
        if given not in known:
            raise ConfigError(f"Unknown {what} {given!r}. Known: {', '.join(known)}.")
    if len(input_shape) != 3:
        raise ConfigError(f"Expected an input shape of 3 sizes, (C, H, W), got {tuple(input_shape)}.")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ConfigError(f"Expected a seed in 0..2^63-1, got {seed!r}.")
    if windows != "none" and steps != 1:
        raise ConfigError(f"A network of windows has one time step, got steps {steps}. The cell over several: windows 'none'.")
    if not (math.isfinite(channels) and 0 < channels <= 64):
        raise ConfigError(f"Expected channels, a factor, above 0 and up to 64, got {channels}.")
    if type(depth) is not int or not 1 <= depth <= 16:
        raise ConfigError(f"Expected a depth, cells in a stage, of 1 to 16, got {depth!r}.")
