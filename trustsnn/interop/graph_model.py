"""A graph of layers as a model: what has no place in a `SpikingNetwork`, such as delays, integrators and arbitrary joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator, encoder
from trustsnn.errors import ModelContractError
from trustsnn.interop.nir_neurons import Timed
from trustsnn.models.spec import ModelSpec, Trace
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.estimator import mean_over_time


class GraphModel(nn.Module):
    """Layers in the order in which they run, each fed with the sum of others. `forward(x)` gives logits [B, K].

    Args:
        layers: by name, in order; stateless modules, `SpikingNeuron`s and `Timed` layers.
        sources: of each layer the names of those that feed it; none is the encoder.
        spec: what the model takes and gives.
        architecture: what the graph was, for the model's hash.
    """

    def __init__(
        self, layers: nn.ModuleDict, sources: Mapping[str, Sequence[str]], spec: ModelSpec, architecture: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.layers, self.spec, self.architecture = layers, spec, dict(architecture)
        self.sources = {name: tuple(of) for name, of in sources.items()}

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K] of a batch [B, *spec.input_shape]: the mean over time of what the last layer gives."""
        return mean_over_time(self._run(x, generator)[0])

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """Per-step logits and the spike counts of each layer of neurons."""
        logits, found = self._run(x, generator)
        counts = {
            f"layers.{name}": found[name].detach().sum(0) for name, m in self.layers.items() if isinstance(m, SpikingNeuron)
        }
        return Trace(logits, counts, logits.detach().cumsum(0))

    def _run(self, x: Tensor, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if tuple(x.shape[1:]) != self.spec.input_shape:
            expected = ", ".join(map(str, self.spec.input_shape))
            raise ModelContractError(f"Expected a batch of shape [B, {expected}], got {list(x.shape)}.")
        steps = self.spec.steps
        coded = encoder(self.spec.encoder).encode(x, steps, generator)
        found: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            h = reduce(torch.add, [found[source] for source in self.sources[name]]) if self.sources[name] else coded
            if isinstance(layer, SpikingNeuron):
                found[name] = layer.fire(h, steps)
            elif isinstance(layer, Timed):
                found[name] = layer(h, steps)
            else:
                found[name] = layer(h.flatten(0, 1)).unflatten(0, h.shape[:2])
        return found[name].expand(steps, *[-1] * (found[name].dim() - 1)), found
