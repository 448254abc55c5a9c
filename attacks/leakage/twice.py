"""A spiking network whose gradients have gradients: what an attack that matches gradients differentiates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.attacks.leakage.updates import in_mode
from trustsnn.encoders import encoder
from trustsnn.errors import ConfigError
from trustsnn.models.branches import Branches
from trustsnn.models.gates import Drawn
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.neurons import STBP, SpikingNeuron, Surrogate
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.neurons.relu import ReLU


def _triangular(distance: Tensor, width: float) -> Tensor:
    inside = distance.clamp(-width, width)
    return inside * (2 * width - inside.abs()) / (2 * width**2)


def _rectangular(distance: Tensor, width: float) -> Tensor:
    return torch.where(distance.abs() < width, distance, distance.detach().clamp(-width, width)) / (2 * width)


def _exponential(distance: Tensor, width: float) -> Tensor:
    side = torch.where(distance.detach() >= 0, 1.0, -1.0)
    return side * (1 - torch.exp(-distance * side / width))


SOFT: dict[str, Callable[[Tensor, float], Tensor]] = {
    "triangular": _triangular,
    "rectangular": _rectangular,
    "atan": lambda distance, width: torch.atan(distance * (math.pi / (2 * width))) / math.pi,
    "sigmoid": lambda distance, width: torch.sigmoid(distance / width),
    "exponential": _exponential,
    "ste": lambda distance, width: distance,
}
"""By name functions of d = u - V whose derivatives are the surrogates of `trustsnn.neurons.SURROGATES`; the constant is left open."""


class TwiceDifferentiable(nn.Module):
    """A copy of a network in plain torch operations: the same logits and the same gradients as through STBP, and second derivatives.

    A spike is hard.detach() + soft - soft.detach(), `soft` being the integral of the surrogate: 0 or 1 forward, the surrogate backward,
    and its derivative in the second one. That of "rectangular" and "ste" is 0, so that a spike's height is all that a search can move.

    A stochastic coding runs as its mean, the image as a constant current: who sees an update does not know what was drawn.

    Args:
        surrogate: in place of each layer's own; the gradients are then not those of the client.
        statistics: of batch normalisation, one of `updates.STATISTICS`.

    Raises:
        ConfigError: the inputs are no images, or a layer is not known here.
    """

    def __init__(self, model: SpikingNetwork, *, surrogate: Surrogate | None = None, statistics: str = "frozen") -> None:
        super().__init__()
        if not isinstance(model, SpikingNetwork) or model.spec.domain != "image" or model.sensor is not None:
            raise ConfigError(
                "Expected a network of trustsnn's layers for images without a sensor: others have no second derivatives here."
            )
        self.network = in_mode(model, statistics)
        self.surrogate = surrogate
        for name, layer in self.network.layers.named_modules():
            plain = type(layer) in (SpikingNeuron, ReLU) if isinstance(layer, SpikingNeuron) else not isinstance(layer, Drawn)
            if not plain or (type(layer) is SpikingNeuron and surrogate is None and type(layer.estimator) is not STBP):
                raise ConfigError(
                    f"The layer {name}, {type(layer).__name__}, has no second derivative here: expected plain spiking neurons or ReLU, which "
                    "learn through a surrogate."
                )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        spec = self.network.spec
        coding = encoder("direct" if spec.stochastic else spec.encoder)
        h = coding.encode(x, spec.steps, None)
        h, given = self._through(self.network.layers, h.flatten(0, 1), len(h), len(x))
        return mean_over_time(h.unflatten(0, (given, len(x))))

    def gradients(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The update that a client with `x` and `target`, labels [B] or shares [B, K], would send, as a function of both."""
        names, parameters = zip(*self.network.named_parameters(), strict=True)
        loss = cross_entropy(self(x), target)
        found = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True, allow_unused=True)
        return dict(zip(names, found, strict=True))

    def _through(self, layers: nn.Module, h: Tensor, given: int, batch: int) -> tuple[Tensor, int]:
        """`h` [given * B, ...] after the layers, and of how many steps it is then."""
        steps = self.network.spec.steps
        for layer in layers.children():
            if isinstance(layer, Branches):
                parts = [self._through(branch, h, given, batch) for branch in layer]
                given = max(count for _, count in parts)
                h = layer.merge([part if count == given else torch.cat([part] * given) for part, count in parts])
            elif isinstance(layer, ReLU):
                h = torch.relu(h)
            elif isinstance(layer, SpikingNeuron):
                h, given = self._fire(layer, h.unflatten(0, (given, batch))).flatten(0, 1), steps
            elif isinstance(layer, BatchNormThroughTime):
                h, given = layer(h, given), steps
            else:
                h = layer(h)
        return h, given

    def _fire(self, neuron: SpikingNeuron, current: Tensor) -> Tensor:
        """Spikes [T, B, ...]."""
        dynamics, (leak, threshold) = neuron.dynamics, neuron.parameters_in_bounds()
        surrogate = self.surrogate or neuron.estimator.surrogate  # type: ignore[attr-defined]
        current = current * (1 - leak) if dynamics.gain == "leaky" else current
        steps = self.network.spec.steps
        after = dynamics.initial * threshold
        spikes = []
        for x in current.expand(steps, *current.shape[1:]):
            before = leak * after + x
            distance = before - threshold
            soft = SOFT[surrogate.name](distance, surrogate.width)
            hard = (distance > 0 if dynamics.comparator == ">" else distance >= 0).to(soft.dtype)
            spikes.append(hard + (soft - soft.detach()))
            reset = spikes[-1].detach() if dynamics.detach_reset else spikes[-1]
            after = before * (1 - reset) if dynamics.reset == "hard" else before - reset * threshold
        return torch.stack(spikes)
