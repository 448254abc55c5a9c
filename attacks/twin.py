"""The ANN twin of a spiking network: the same weights, ReLU in place of spikes, no time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustsnn.errors import ConfigError
from trustsnn.kernels.lif import Keep
from trustsnn.models import SpikingNetwork
from trustsnn.models.gates import Drawn
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.neurons import GradientEstimator, SpikingNeuron
from trustsnn.neurons.estimator import over_time


class _NoSpike(GradientEstimator):
    """In place of an estimator where there is no spike to differentiate."""

    def describe(self) -> dict[str, object]:
        return {"name": "relu"}


class Rectifier(SpikingNeuron):
    """What takes a neuron's place: relu(gain * x) of its current x over the one step [1, B, ...], with the neuron's gain."""

    binary: ClassVar[bool] = False

    def __init__(self, neuron: SpikingNeuron) -> None:
        super().__init__(neuron.dynamics)
        leak, threshold = neuron.parameters_in_bounds()
        self.leak, self.threshold = leak.detach().clone(), threshold.detach().clone()
        self.estimator = _NoSpike()

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        driven = current * (1 - self.leak) if self.dynamics.gain == "leaky" else current
        return torch.relu(driven), driven


class AnnTwin(nn.Module):
    """See `ann_twin`. `forward(x)` gives logits [B, K] for the spiking network's inputs [B, *spec.input_shape]."""

    def __init__(self, model: SpikingNetwork) -> None:
        super().__init__()
        layers = copy.deepcopy(model.layers)
        for name, layer in model.layers.named_modules():
            if isinstance(layer, SpikingNeuron | BatchNormThroughTime | Drawn):
                place, _, child = name.rpartition(".")
                still = Rectifier(layer) if isinstance(layer, SpikingNeuron) else layer.over_time()
                layers.get_submodule(place).register_module(child, still)
        self.spec = replace(model.spec, stochastic=False)
        self._frames = model.spec.encoder == "frames"
        shape = model.spec.input_shape[1:] if self._frames else model.spec.input_shape
        spec = replace(self.spec, domain="image", input_shape=shape, steps=1, encoder="direct", max_count=None)
        self.network = type(model)(layers, spec, {"name": "ann-twin"})
        self.network.memory = model.memory
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K]."""
        logits: Tensor = self.network(self._still(x))
        return logits

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """What each layer's rectifiers give, [B, ...], by the layer's name in the spiking network; no gradient."""
        with torch.no_grad():
            return self.network.unroll(self._still(x)).spike_counts

    def _still(self, x: Tensor) -> Tensor:
        return over_time(x.transpose(0, 1)) / x.shape[1] if self._frames else x

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """As `SpikingNetwork.fixed`."""
        with self.network.fixed():
            yield

    @property
    def independent(self) -> bool:
        """As `SpikingNetwork.independent`."""
        return self.network.independent

    @property
    def affordable(self) -> int:
        """As `SpikingNetwork.affordable`."""
        return self.network.affordable


def ann_twin(model: nn.Module) -> AnnTwin:
    """The ANN with the weights of a `SpikingNetwork`: relu(gain * x) for each layer of neurons, and what the encoder codes as
    its input: an image as it is, event frames as their mean over time. Copied, so that neither network follows the other; in
    eval mode and deterministic. Attack it for examples that transfer (Sharmin 2019).

    Raises:
        ConfigError: the model is no `SpikingNetwork`, so that it is not known what its twin would compute.
    """
    if not isinstance(model, SpikingNetwork):
        raise ConfigError(f"Expected a SpikingNetwork, got {type(model).__name__}: what its ANN twin computes is not known.")
    return AnnTwin(model)
