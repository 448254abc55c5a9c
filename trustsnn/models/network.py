"""A feed-forward spiking network over whole sequences, time folded into the batch for everything without memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator, encoder
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.kernels import backend
from trustsnn.models.spec import ModelSpec, Trace
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.bitserial import BiasAtLast, place_values
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.neurons.normalised import can_normalise, normalised_fire
from trustsnn.neurons.synapses import Synapses, average_pool

Stage = tuple[str, nn.Module | Synapses]

READOUTS = {
    "membrane": "mean over time of the last layer's current: a membrane that never fires",
    "spike-count": "mean over time of the last layer's spikes",
    "bits": "sum over time of 2^(T-t) times the last layer's current; every layer's bias counts once",
}


class SpikingNetwork(nn.Module):
    """Encoder, layers, readout. `forward(x)` gives logits [B, K]; `unroll(x)` gives a `Trace`.

    `half_gradients` lets gradients with respect to a layer's input multiply in bfloat16 where the processor can: faster, and
    good to 3 % a layer without bias; the forward pass and the weights' gradients stay in float32.

    `memory` bounds the activations of an evaluation, in bytes: a batch is cut into blocks that fit. No figure depends on it.

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
        self.half_gradients = False
        self.memory: int | None = None
        self._bytes: int | None = None
        self._fixed: list[Stage] | None = None
        self._synapses = BiasAtLast if spec.readout == "bits" else Synapses

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K] of a batch [B, *spec.input_shape]. A stochastic encoder needs `generator`."""
        return mean_over_time(self._run(x, generator)[0])

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """Per-step logits, spike counts per layer and the readout's membrane for a batch."""
        counts: dict[str, Tensor] = {}
        logits, membrane = self._run(x, generator, counts)
        if self.spec.readout == "membrane":
            membrane = logits.detach().cumsum(0)
        return Trace(logits, counts, membrane)

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Inside, weights do not change and the model is in eval mode: normalisation is folded into the weights once."""
        before = self._fixed
        self._fixed = before or self._fold()
        try:
            yield
        finally:
            self._fixed = before

    @property
    def independent(self) -> bool:
        """Whether a sample's result is the same bits in whatever batch it comes: inside `fixed`, with the native kernels, for
        layers that are known to be so."""
        known = (Synapses, SpikingNeuron, nn.AvgPool2d, nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
        plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in self.parameters())
        return self._fixed is not None and plain and backend() == "native" and all(isinstance(f, known) for _, f in self._fixed)

    @property
    def affordable(self) -> int:
        """Samples whose activations, forward and backward, fit `memory` bytes; at least 1."""
        if self.memory is None:
            return sys.maxsize
        if self._bytes is None:
            sizes: list[int] = []
            with torch.no_grad():
                weight = next(self.parameters())
                self._run(
                    weight.new_zeros((1, *self.spec.input_shape)), torch.Generator(weight.device).manual_seed(0), sizes=sizes
                )
            self._bytes = 4 * sum(sizes)  # a layer keeps its membranes; what passes through it takes as much again
        return max(1, self.memory // self._bytes)

    def _fold(self) -> list[Stage]:
        """The layers, each convolution or linear layer with the batch normalisation that follows it as one."""
        stages: list[Stage] = []
        children = list(self.layers.named_children())
        while children:
            name, layer = children.pop(0)
            if not Synapses.can(layer):
                stages.append((name, layer))
                continue
            norm = children[0][1] if children else None
            folds = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.running_mean is not None
            if folds:
                children.pop(0)
            stages.append((name, self._synapses(layer, norm if folds else None, half=self.half_gradients)))  # type: ignore[arg-type]
        return stages

    def stages(self) -> list[Stage]:
        """The layers as they run, by name; inside `fixed` with the normalisations folded in."""
        if self._fixed is not None:
            return self._fixed
        children = self.layers.named_children()
        return [(name, self._synapses(c, half=self.half_gradients) if Synapses.can(c) else c) for name, c in children]  # type: ignore[arg-type]

    def _run(
        self, x: Tensor, generator: Generator, counts: dict[str, Tensor] | None = None, sizes: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
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
        spikes = False  # h comes out of a layer of neurons
        stages = self.stages()
        for place, (name, stage) in enumerate(stages):
            if place + 1 < len(stages) and can_normalise(stage, stages[place + 1][1]):
                continue  # done with the neurons that follow
            if not isinstance(stage, SpikingNeuron):
                h = through(stage, h, spikes, batch)
                spikes = False
                if sizes is not None:
                    sizes.append(h.numel())
                continue
            given, steps = steps, spec.steps
            before = stages[place - 1][1] if place else None
            if counts is not None and stage is self.layers[-1]:
                fired, membrane = stage.unroll(h.unflatten(0, (given, batch)), steps)
            elif before is not None and can_normalise(before, stage):
                fired = normalised_fire(before, stage, h, steps, given).unflatten(0, (steps, batch))  # type: ignore[arg-type]
            else:
                fired = stage.fire(h.unflatten(0, (given, batch)), steps)
            if counts is not None:
                counts[f"layers.{name}"] = fired.detach().sum(0)
            h, spikes = fired.flatten(0, 1), True
            if sizes is not None:
                sizes.append(h.numel())
        if steps < spec.steps:
            raise ConfigError("A spiking network has at least one spiking layer; this one has none.")
        return self.read(h.unflatten(0, (steps, batch))), membrane

    def read(self, h: Tensor) -> Tensor:
        """The logits of each step, whose mean are the network's, from what the last layer gives, both [T, B, K]."""
        if self.spec.readout != "bits":
            return h
        return h * (len(h) * place_values(len(h), h)).view(-1, 1, 1)


def through(stage: nn.Module | Synapses, h: Tensor, spikes: bool, batch: int) -> Tensor:
    """What a stage without memory makes of `h` [T * batch, ...], which comes straight out of a layer of neurons if `spikes`."""
    if isinstance(stage, Synapses):
        out = stage(h, spikes)
        return stage.add_bias(out, batch) if isinstance(stage, BiasAtLast) else out
    if isinstance(stage, nn.AvgPool2d):
        return average_pool(stage, h)
    return stage(h)  # type: ignore[no-any-return]
