"""What the probes in a running network add up: for each layer and sample, operations, inputs and spikes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.energy.operations import attention_operations, outputs_of, synaptic_operations
from trustsnn.errors import ConfigError

Values = NDArray[np.float64]
_SCALE = 1e-6  # relative, between sizes that count as one


@dataclass(frozen=True)
class LayerCounts:
    """A layer with weights, or an attention. Arrays have one value a sample.

    calls: how often it computes for a sample. dense: products of all its inputs with all its weights, in all calls. effective: those of
    an input and a weight that are both not 0. once: the same with an input that is not 0 at any step, counted once: what a network
    computes that has one level a neuron in place of steps.
    inputs: in all calls; nonzero: those that are not 0. low, high: the least and the largest size of these.
    outputs: of one call.
    additions: where the inputs are averages of spikes, each spike's share of a weight added by itself; None elsewhere.
    """

    name: str
    weights: int
    outputs: int
    calls: int
    dense: float
    inputs: int
    effective: Values
    once: Values
    nonzero: Values
    low: float
    high: float
    attention: bool = False
    additions: Values | None = None

    @property
    def accumulates(self) -> bool:
        """Whether its inputs are 0, 1 and -1 up to one scale, so that a product is an addition."""
        return self.high <= self.low * (1 + _SCALE)


@dataclass(frozen=True)
class NeuronCounts:
    """A layer of neurons. Arrays have one value a sample.

    neurons: of the layer; places: neurons times steps. spikes: what is not 0 of what they gave. updates: membranes that a step left at
    another value than the step before, all of them at the first step; None where membranes are not seen.
    """

    name: str
    neurons: int
    places: int
    spikes: Values
    updates: Values | None


class _Layer:
    """What was seen of a layer with weights: finished forward passes in `columns`, and the one that is going on."""

    def __init__(self, weights: int, outputs: int, once: Callable[[list[Tensor]], Tensor], attention: bool) -> None:
        self.weights, self.outputs, self.attention, self._once = weights, outputs, attention, once
        self.additions: list[Values] = []
        self.low, self.high = np.inf, 0.0
        self.calls, self.dense, self.inputs = 0, 0.0, 0
        self.columns: list[list[Values]] = [[], [], []]
        self._fired: list[Tensor] = []

    def add(self, parts: list[Tensor], effective: Tensor, dense: float, times: int) -> None:
        """Inputs [steps, B, ...] of a call at each of the steps, each counted `times` times."""
        fired = [(part != 0).any(0) for part in parts]
        nonzero = torch.stack([_by_sample(part != 0) for part in parts]).sum(0)
        if not self._fired:
            self._fired, self._effective, self._nonzero = fired, effective * times, nonzero * times
            self.calls, self.dense, self.inputs = 0, 0.0, 0
        else:
            self._fired = [a | b for a, b in zip(self._fired, fired, strict=True)]
            self._effective, self._nonzero = self._effective + effective * times, self._nonzero + nonzero * times
        steps = len(parts[0]) * times
        self.calls, self.dense = self.calls + steps, self.dense + dense * steps
        self.inputs += sum(part[:, 0].numel() for part in parts) * times
        for part in parts:
            sizes = part[part != 0].abs()
            if sizes.numel():
                self.low, self.high = min(self.low, float(sizes.min())), max(self.high, float(sizes.max()))

    def end(self) -> None:
        """The forward pass is over."""
        if self._fired:
            values = (self._effective, self._once(self._fired), self._nonzero)
            for column, value in zip(self.columns, values, strict=True):
                column.append(value.double().numpy())
            self._fired = []

    def counts(self, name: str) -> LayerCounts:
        """All of it."""
        effective, once, nonzero = (np.concatenate(column) for column in self.columns)
        return LayerCounts(
            name, self.weights, self.outputs, self.calls, self.dense, self.inputs, effective, once, nonzero, self.low, self.high,
            self.attention, np.concatenate(self.additions) if self.additions else None,
        )  # fmt: skip


class _Neurons:
    """What was seen of a layer of neurons, likewise."""

    def __init__(self) -> None:
        self.neurons = self.places = 0
        self.columns: list[list[Values]] = [[], []]
        self._spikes: Tensor | None = None
        self._updates: Tensor | None = None

    def add(self, output: Tensor, updates: Tensor | None) -> None:
        """Outputs [steps, B, ...] and updates [B] of membranes."""
        spikes = _by_sample(output != 0)
        if self._spikes is None:
            self._spikes, self._updates, self.places = spikes, updates, 0
        else:
            self._spikes = self._spikes + spikes
            self._updates = self._updates + updates if self._updates is not None and updates is not None else None
        self.neurons, self.places = output[0, 0].numel(), self.places + output[:, 0].numel()

    def end(self) -> None:
        """The forward pass is over."""
        for column, value in zip(self.columns, (self._spikes, self._updates), strict=True):
            if value is not None:
                column.append(value.double().numpy())
        self._spikes = self._updates = None

    def counts(self, name: str) -> NeuronCounts:
        """All of it."""
        spikes, updates = (np.concatenate(column) if column else None for column in self.columns)
        assert spikes is not None
        return NeuronCounts(name, self.neurons, self.places, spikes, updates)


class Tally:
    """What the probes of a running network write to. Inputs and outputs are [B, ...] of one step, [T * B, ...] or [T, B, ...].

    Args:
        steps: T.
        every_step: a layer that gets the same input at every step, and computes it once, counts T times.
    """

    def __init__(self, steps: int, every_step: bool) -> None:
        self.steps, self.every_step = steps, every_step
        self.layers: dict[str, _Layer] = {}
        self.neurons: dict[str, _Neurons] = {}
        self._batch = self._left = self._valid = 0

    def begin(self, samples: int) -> None:
        """So many samples come; rows after them are padding."""
        self._left = samples

    def forward(self, batch: int) -> None:
        """A forward pass of that many rows begins."""
        self.end()
        self._batch, self._valid = batch, min(batch, self._left)
        self._left -= self._valid

    def end(self) -> None:
        """The forward pass is over."""
        for layer in self.layers.values():
            layer.end()
        for neurons in self.neurons.values():
            neurons.end()

    def fed(self, name: str, layer: nn.Module, h: Tensor, *, constant: bool = False, averaged: int | None = None) -> None:
        """The input of a layer with weights; `constant`: one step stands for all, where there is one; `averaged`: over how many
        spikes each input is the average, if it is."""
        if not self._valid:
            return
        h = self._by_step(h.detach())
        if name not in self.layers:
            weights: Tensor = layer.weight  # type: ignore[assignment]
            once = functools.partial(_once, layer)
            self.layers[name] = _Layer(weights.numel(), outputs_of(layer, h[0, :1]), once, False)
        effective = synaptic_operations(layer, (h != 0).flatten(0, 1)).unflatten(0, h.shape[:2]).sum(0)
        dense = float(synaptic_operations(layer, torch.ones_like(h[0, :1]), dense=True))
        times = self.steps if self.every_step and constant and len(h) == 1 else 1
        self.layers[name].add([h], effective, dense, times)
        if averaged is not None:
            added = synaptic_operations(layer, (h * averaged).flatten(0, 1)).unflatten(0, h.shape[:2]).sum(0)
            self.layers[name].additions.append(added.numpy())

    def attended(self, name: str, heads: int, parts: list[Tensor]) -> None:
        """Q, K and V of an attention."""
        if not self._valid:
            return
        parts = [self._by_step(part.detach()) for part in parts]
        operations = functools.partial(attention_operations, heads=heads)
        if name not in self.layers:
            self.layers[name] = _Layer(0, parts[0][0, 0].numel(), operations, True)
        effective = operations([part.flatten(0, 1) for part in parts]).unflatten(0, parts[0].shape[:2]).sum(0)
        self.layers[name].add(parts, effective, float(operations([part[0, :1] for part in parts], dense=True)), 1)

    def gave(self, name: str, output: Tensor, updates: Tensor | None = None) -> None:
        """What a layer of neurons gives, and how often its membranes [B] changed, if that is known."""
        if self._valid:
            changed = updates[: self._valid] if updates is not None else None
            self.neurons.setdefault(name, _Neurons()).add(self._by_step(output.detach()), changed)

    def _by_step(self, h: Tensor) -> Tensor:
        """[steps, samples, ...] without padding."""
        if len(h) == self._batch:
            h = h.unsqueeze(0)
        elif not (h.dim() > 1 and (len(h), h.shape[1]) == (self.steps, self._batch)):
            if len(h) % self._batch:
                raise ConfigError(
                    f"Expected what layers get and give as [{self._batch}, ...], [{self.steps}, {self._batch}, ...] or "
                    f"[steps * {self._batch}, ...], got {list(h.shape)}: which sample is which is not known."
                )
            h = h.unflatten(0, (-1, self._batch))
        return h[:, : self._valid]


def _once(layer: nn.Module, fired: list[Tensor]) -> Tensor:
    return synaptic_operations(layer, fired[0])


def _by_sample(true: Tensor) -> Tensor:
    """How many of [steps, B, ...] are true, [B]."""
    return true.transpose(0, 1).flatten(1).sum(1)
