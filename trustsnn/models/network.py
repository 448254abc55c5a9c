"""A feed-forward spiking network over whole sequences, time folded into the batch for everything without memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.encoders import Generator, encoder
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.kernels import backend
from trustsnn.models.branches import MERGES, Branches
from trustsnn.models.gates import Drawn
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.models.spec import ModelSpec, Trace
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.bitserial import BiasAtLast, place_values
from trustsnn.neurons.convolved import can_convolve, convolved_fire
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.neurons.normalised import can_normalise, normalised, normalised_fire, normalised_resume
from trustsnn.neurons.synapses import Synapses, average_pool
from trustsnn.rng import Draws


class Fork(NamedTuple):
    """`Branches` as they run: the stages of each, and what merges them."""

    branches: list[list[Stage]]
    merge: Branches


Runs = nn.Module | Synapses | Fork
Stage = tuple[str, Runs]
Look = Callable[[str, Runs, Tensor], None]  # a stage by its name, and what it gives [T * batch, ...]
Fire = Callable[[str, SpikingNeuron, Tensor, int], Tensor]  # spikes of a layer by its name, for a current and a number of steps
Membranes = dict[SpikingNeuron, Tensor]

READOUTS = {
    "membrane": "mean over time of the last layer's current: a membrane that never fires",
    "spike-count": "mean over time of the last layer's spikes",
    "bits": "sum over time of 2^(T-t) times the last layer's current; every layer's bias counts once",
}


class SpikingNetwork(nn.Module):
    """Encoder, layers, readout. `forward(x)` gives logits [B, K]; `unroll(x)` gives a `Trace`.

    `half_gradients` lets gradients with respect to a layer's input multiply in bfloat16 where the processor can: faster, and
    good to 3 % a layer without bias; the forward pass and the weights' gradients stay in float32.

    `sensor`, where there is one, is what takes the input [B, *spec.input_shape] first, part by part; a `Drawn` part draws once.

    `memory` bounds the activations of an evaluation, in bytes: a batch is cut into blocks that fit. No figure depends on it.

    Layers are stateless modules (convolution, normalisation, pooling, linear), `SpikingNeuron`s, and `Branches` of them. What
    comes before the first neuron of a path is computed once when the input is a constant current.

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
        self._alike = False  # whether all of those give a sample the same bits in any batch
        self.sensor: nn.Sequential | None = None
        self._synapses = BiasAtLast if spec.readout == "bits" else Synapses

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K] of a batch [B, *spec.input_shape]. A stochastic encoder needs `generator`."""
        return mean_over_time(self._run(x, generator)[0])

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """Per-step logits, spike counts per layer and the readout's membrane for a batch."""
        counts: dict[str, Tensor] = {}

        def count(name: str, stage: Runs, out: Tensor) -> None:
            if isinstance(stage, SpikingNeuron):
                counts[f"layers.{name}"] = out.detach().unflatten(0, (self.spec.steps, len(x))).sum(0)

        logits, membrane = self._run(x, generator, count)
        if self.spec.readout == "membrane":
            membrane = logits.detach().cumsum(0)
        return Trace(logits, counts, membrane)

    def part(self, x: Tensor, steps: range, membranes: Membranes, generator: Generator = None) -> Tensor:
        """Logits [len(steps), B, K] of some of the time steps, one after the other.

        `membranes` holds what the steps before these left in each layer of neurons, nothing at the start, and afterwards what these left;
        it carries no gradient, and may be empty after the last step. The parts of an input give the same spikes as all steps at once.
        All steps in one part are the forward pass as it is, and leave nothing.
        """
        if len(steps) == self.spec.steps:
            return self._run(x, generator)[0]
        if self.spec.readout == "bits":
            raise ConfigError("A bit-serial network runs all of its time steps at once: its neurons wait for the last current.")

        return self._run(x, generator, part=steps, membranes=membranes)[0]

    def fired_by(self, fire: Fire, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K] of a batch in which `fire(name, neuron, current, steps)` gives the spikes [T, B, ...] of each layer of neurons, in the
        order in which they run, for its current [T or 1, B, ...]."""
        return mean_over_time(self._run(x, generator, fire=lambda name, *what: fire(f"layers.{name}", *what))[0])

    def distances(self, x: Tensor, generator: Generator = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, K] of a batch, and of each layer of neurons by name the distance u - V of the membrane before the spike to the
        threshold, [T, B, ...]. All of them carry gradients."""
        found: dict[str, Tensor] = {}

        def observe(name: str, neuron: SpikingNeuron, current: Tensor, count: int) -> Tensor:
            spikes = neuron.fire(current, count)
            found[name] = neuron.distances(current, spikes)
            return spikes

        return self.fired_by(observe, x, generator), found

    def activations(self, x: Tensor, generator: Generator = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, K], and the mean over the steps of what each layer of neurons gives, [B, ...neurons], by its name: firing
        rates, or activations of an ANN. Both let a gradient through."""
        rates: dict[str, Tensor] = {}

        def keep(name: str, stage: Runs, out: Tensor) -> None:
            if isinstance(stage, SpikingNeuron):
                rates[f"layers.{name}"] = mean_over_time(out.unflatten(0, (self.spec.steps, len(x))))

        logits, _ = self._run(x, generator, keep)
        return mean_over_time(logits), rates

    def first_spikes(self, x: Tensor, generator: Generator = None) -> dict[str, Tensor]:
        """The time step, from 0, of a neuron's first spike, T where it has none: its mean over the neurons of each layer by name, [B]."""
        times: dict[str, Tensor] = {}

        def keep(name: str, stage: Runs, out: Tensor) -> None:
            if isinstance(stage, SpikingNeuron):
                steps = out.detach().unflatten(0, (self.spec.steps, len(x)))
                silent, first = torch.ones_like(steps[0], dtype=torch.bool), torch.zeros_like(steps[0], dtype=torch.int32)
                for step in steps:
                    silent &= step == 0
                    first += silent
                times[f"layers.{name}"] = first.flatten(1).mean(1, dtype=torch.float64)

        self._run(x, generator, keep)
        return times

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Inside, weights do not change and the model is in eval mode: normalisation is folded into the weights once."""
        before = self._fixed, self._alike
        if self._fixed is None:
            self._fixed = self._prepared(self.layers, "", fold=True)
            plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in self.parameters())
            self._alike = plain and all(_independent(stage) for _, stage in self._fixed)
        try:
            yield
        finally:
            self._fixed, self._alike = before

    @property
    def independent(self) -> bool:
        """Whether a sample's result is the same bits in whatever batch it comes: inside `fixed`, with the native kernels, for
        layers that are known to be so."""
        return self._alike and backend() == "native"

    @property
    def affordable(self) -> int:
        """Samples whose activations, forward and backward, fit `memory` bytes; at least 1."""
        if self.memory is None:
            return sys.maxsize
        if self._bytes is None:
            sizes: list[int] = []
            with torch.no_grad():
                weight = next(self.parameters())
                zero, draws = weight.new_zeros((1, *self.spec.input_shape)), torch.Generator(weight.device).manual_seed(0)
                self._run(zero, draws, lambda name, stage, out: sizes.append(out.numel()))
            self._bytes = 4 * sum(sizes)  # a layer keeps its membranes; what passes through it takes as much again
        return max(1, self.memory // self._bytes)

    def stages(self) -> list[Stage]:
        """The layers as they run, by name; inside `fixed` with the normalisations folded in."""
        return self._fixed if self._fixed is not None else self._prepared(self.layers, "", fold=False)

    def _prepared(self, layers: nn.Sequential, prefix: str, fold: bool) -> list[Stage]:
        """The stages of a sequence of layers; with `fold` each convolution or linear layer is one with the batch normalisation
        that follows it."""
        stages: list[Stage] = []
        children = [(prefix + name, layer) for name, layer in layers.named_children()]
        while children:
            name, layer = children.pop(0)
            if isinstance(layer, Branches):
                forked = [self._prepared(branch, f"{name}.{key}.", fold) for key, branch in layer.named_children()]  # type: ignore[arg-type]
                stages.append((name, Fork(forked, layer)))
            elif Synapses.can(layer):
                norm = children[0][1] if fold and children else None
                folds = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.running_mean is not None
                if folds:
                    children.pop(0)
                stages.append((name, self._synapses(layer, norm if folds else None, half=self.half_gradients)))  # type: ignore[arg-type]
            else:
                stages.append((name, layer))
        return stages

    def _run(
        self, x: Tensor, generator: Generator, look: Look | None = None, *, fire: Fire | None = None, part: range | None = None,
        membranes: Membranes | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The logits of each step of a `part`, or of all, and the membrane of a spiking readout if `look` is there, which sees what each
        stage gives. `fire` is how neurons fire where that is not `SpikingNeuron.fire`; `membranes` are those of `part`."""
        spec = self.spec
        part = range(spec.steps) if part is None else part
        if tuple(x.shape[1:]) != spec.input_shape:
            raise ModelContractError(
                f"Expected a batch of shape [B, {', '.join(map(str, spec.input_shape))}], got {list(x.shape)}."
            )
        x = self._sensed(x, generator)
        h = encoder(spec.encoder).encode(x, spec.steps, generator)
        h = h[part.start : part.stop] if len(h) > 1 else h
        signal = Signal(h.flatten(0, 1), len(h))
        run = _Pass(len(x), part, part.stop < spec.steps, self.layers[-1], look, signal.h, fire, membranes, generator)
        signal = run.through(self.stages(), signal)
        if signal.steps < len(part):
            raise ConfigError("A spiking network has at least one spiking layer; this one has none.")
        return self.read(signal.h.unflatten(0, (len(part), len(x)))), run.membrane

    def _sensed(self, x: Tensor, generator: Generator) -> Tensor:
        """The input [B, ...] as the sensor gives it."""
        for name, part in self.sensor.named_children() if self.sensor is not None else ():
            draws = generator.child("sensor", name) if isinstance(generator, Draws) else generator
            x = part(x, range(1), draws) if isinstance(part, Drawn) else part(x)
        return x

    def read(self, h: Tensor) -> Tensor:
        """The logits of each step, whose mean are the network's, from what the last layer gives, both [T, B, K]."""
        if self.spec.readout != "bits":
            return h
        return h * (len(h) * place_values(len(h), h)).view(-1, 1, 1)


class Signal(NamedTuple):
    """What runs between stages: `h` [steps * batch, ...], `steps` being 1 as long as it is the same at every step, and whether it
    comes straight out of layers of neurons."""

    h: Tensor
    steps: int
    spikes: bool = False


@dataclass
class _Pass:
    """One forward pass through the stages of a network."""

    batch: int
    part: range  # of the time steps
    more: bool  # whether others follow
    last: nn.Module
    look: Look | None
    membrane: Tensor  # before the spikes of the last layer, if it has some and `look` is there
    fire: Fire | None
    membranes: Membranes | None
    generator: Generator

    @property
    def steps(self) -> int:
        return len(self.part)

    def through(self, stages: Sequence[Stage], signal: Signal) -> Signal:
        before: Runs | None = None
        for place, (name, stage) in enumerate(stages):
            if place + 1 < len(stages) and self._joined(stage, stages[place + 1][1], signal):
                before = stage
                continue
            if isinstance(stage, SpikingNeuron):
                signal, before = self._fire(name, stage, before, signal), None
            elif isinstance(stage, Fork):
                signal = self._merge(stage, signal)
            elif isinstance(stage, BatchNormThroughTime):
                signal = Signal(stage(signal.h, signal.steps, self.part), self.steps)
            elif self.fire is not None and place + 1 < len(stages) and can_normalise(stage, stages[place + 1][1]):
                signal = signal._replace(h=normalised(stage, signal.h), spikes=False)  # type: ignore[arg-type]
            elif isinstance(stage, Drawn):
                draws = self.generator.child("gate", name) if isinstance(self.generator, Draws) else self.generator
                once = stage.held and signal.steps == 1
                h = signal.h if once or signal.steps == self.steps else torch.cat([signal.h] * self.steps)
                part = range(1) if once else self.part
                signal = Signal(stage(h, part, draws), len(part), signal.spikes and stage.spikes)
            else:
                signal = Signal(through(stage, signal.h, signal.spikes, self.batch), signal.steps)
            if self.look is not None:
                self.look(name, stage, signal.h)
        return signal

    def _joined(self, layer: Runs, neuron: Runs, signal: Signal) -> bool:
        """Whether these are neurons and the normalisation or convolution before them that run as one for this signal."""
        if self.fire is not None:
            return False
        whole = self.membranes is None and (self.look is None or neuron is not self.last)
        return can_normalise(layer, neuron) or (whole and can_convolve(layer, neuron, signal.h, signal.spikes, self.batch))

    def _fire(self, name: str, neuron: SpikingNeuron, before: Runs | None, signal: Signal) -> Signal:
        """What the neurons give, with the layer `before` them where the two run as one."""
        if before is not None:
            if isinstance(before, Synapses):
                fired = convolved_fire(before, neuron, signal.h, self.steps, signal.steps)
            elif self.membranes is None:
                fired = normalised_fire(before, neuron, signal.h, self.steps, signal.steps)  # type: ignore[arg-type]
            else:
                left = self.membranes.get(neuron)
                resumed = normalised_resume(before, neuron, signal.h, self.steps, signal.steps, left, self.more)  # type: ignore[arg-type]
                fired, self.membranes[neuron] = resumed
            return Signal(fired, self.steps, True)
        current = signal.h.unflatten(0, (signal.steps, self.batch))
        if self.fire is not None:
            spikes = self.fire(name, neuron, current, self.steps)
        elif self.membranes is not None:
            spikes, self.membranes[neuron] = neuron.resume(current, self.steps, self.membranes.get(neuron))
        elif self.look is not None and neuron is self.last:
            spikes, self.membrane = neuron.unroll(current, self.steps)
        else:
            spikes = neuron.fire(current, self.steps)
        return Signal(spikes.flatten(0, 1), self.steps, True)

    def _merge(self, fork: Fork, signal: Signal) -> Signal:
        parts = [self.through(branch, signal) for branch in fork.branches]
        steps = max(part.steps for part in parts)
        # repeated and not expanded: the gradient then adds up step by step, whatever the batch
        whole = [part.h if part.steps == steps else torch.cat([part.h] * steps) for part in parts]
        spikes = MERGES[fork.merge.how].spikes and all(part.spikes for part in parts)
        return Signal(fork.merge.merge(whole), steps, spikes)


_KNOWN = (
    Synapses, SpikingNeuron, BatchNormThroughTime, Drawn, nn.AvgPool2d, nn.MaxPool2d, nn.Upsample, nn.Flatten, nn.Identity, nn.Dropout,
    nn.Dropout2d,
)  # fmt: skip


def _independent(stage: Runs) -> bool:
    """Whether a stage is known to treat each sample for itself, the native kernels given."""
    if isinstance(stage, Fork):
        return MERGES[stage.merge.how].together and all(_independent(s) for branch in stage.branches for _, s in branch)
    return isinstance(stage, _KNOWN)


def through(stage: Runs, h: Tensor, spikes: bool, batch: int) -> Tensor:
    """What a stage without memory makes of `h` [T * batch, ...], which comes straight out of a layer of neurons if `spikes`."""
    if isinstance(stage, Synapses):
        out = stage(h, spikes)
        return stage.add_bias(out, batch) if isinstance(stage, BiasAtLast) else out
    if isinstance(stage, nn.AvgPool2d):
        return average_pool(stage, h)
    if isinstance(stage, Fork):
        raise ModelContractError("Branches hold neurons and run in a whole SpikingNetwork alone.")
    return stage(h)  # type: ignore[no-any-return]
