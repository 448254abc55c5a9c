"""A feed-forward spiking network over whole sequences, time folded into the batch for everything without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trustsnn.encoders import Generator, encoder
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models.spec import ModelSpec, Trace
from trustsnn.neurons import SpikingNeuron

READOUTS = {
    "membrane": "mean over time of the last layer's current: a membrane that never fires",
    "spike-count": "mean over time of the last layer's spikes",
}


class SpikingNetwork(nn.Module):
    """Encoder, layers, readout. `forward(x)` gives logits [B, K]; `unroll(x)` gives a `Trace`.

    Layers are stateless modules (convolution, normalisation, pooling, linear) and `SpikingNeuron`s. What comes before
    the first neuron is computed once when the input is a constant current.

    Args:
        layers: the layers in order; with the readout "spike-count" the last one is a `SpikingNeuron`.
        spec: what the model takes and gives.
        architecture: name and arguments from which `trustsnn.models.build` makes this network again.
    """

    def __init__(self, layers: nn.Sequential, spec: ModelSpec, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        if spec.readout not in READOUTS:
            raise ConfigError(f"Unknown readout {spec.readout!r}. Known: {', '.join(READOUTS)}.")
        if (spec.readout == "spike-count") != isinstance(layers[-1], SpikingNeuron):
            raise ConfigError("The last layer is a SpikingNeuron with the readout 'spike-count' and only then.")
        self.layers = layers
        self.spec = spec
        self.architecture = dict(architecture)

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K] of a batch [B, *spec.input_shape]. A stochastic encoder needs `generator`."""
        return self._run(x, generator)[0].mean(0)

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """Per-step logits, spike counts per layer and the readout's membrane for a batch."""
        counts: dict[str, Tensor] = {}
        logits, membrane = self._run(x, generator, counts)
        if self.spec.readout == "membrane":
            membrane = logits.detach().cumsum(0)
        return Trace(logits, counts, membrane)

    def _run(self, x: Tensor, generator: Generator, counts: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        spec = self.spec
        if tuple(x.shape[1:]) != spec.input_shape:
            raise ModelContractError(
                f"Expected a batch of shape [B, {', '.join(map(str, spec.input_shape))}], got {list(x.shape)}."
            )
        batch = len(x)
        h = encoder(spec.encoder).encode(x, spec.steps, generator)
        steps = len(h)
        h = h.flatten(0, 1)
        membrane = h
        for name, layer in self.layers.named_children():
            if not isinstance(layer, SpikingNeuron):
                h = layer(h)
                continue
            current = h.unflatten(0, (steps, batch))
            if steps < spec.steps:
                current, steps = current.expand(spec.steps, *current.shape[1:]), spec.steps
            spikes, membrane = layer.unroll(current)
            if counts is not None:
                counts[f"layers.{name}"] = spikes.detach().sum(0)
            h = spikes.flatten(0, 1)
        if steps < spec.steps:
            raise ConfigError("A spiking network has at least one spiking layer; this one has none.")
        return h.unflatten(0, (steps, batch)), membrane
