"""Whether an imported model does what the original does: both replay the same inputs, and their spikes are compared one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.blocks import BLOCK, frozen, is_stochastic
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.rng import Draws
from trustsnn.statistics import wilson_of_mean


class Estimate(NamedTuple):
    """A mean over samples with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerConformance:
    """A layer of neurons in the original and in the import. `mismatches` of `places` (neurons times steps times samples) differ;
    `mismatch` is that share, `drift` the import's spike rate minus the original's `rate`."""

    name: str
    imported: str
    places: int
    mismatches: int
    mismatch: Estimate
    rate: Estimate
    drift: Estimate


@dataclass(frozen=True)
class Conformance:
    """What a replay of `samples` inputs found. `logits` is the largest difference of a logit, `predictions` the share of samples whose
    class differs, `accuracy` the import's accuracy minus the original's where labels were given. `layers` is empty, and `unmatched` says
    why, where the layers of neurons of the two cannot be paired."""

    samples: int
    layers: tuple[LayerConformance, ...]
    logits: float
    predictions: Estimate
    accuracy: Estimate | None
    unmatched: str = ""

    def lines(self) -> list[str]:
        """The findings for a person."""
        found = [self.unmatched] if self.unmatched else []
        for layer in self.layers:
            drift = f"rate {layer.rate.value:.4f}, drift {_said(layer.drift, '+.2e')}"
            found.append(
                f"{layer.name}: {layer.mismatches:,} of {layer.places:,} spikes differ, {_said(layer.mismatch, '.2e')}; {drift}"
            )
        found.append(f"largest difference of a logit: {self.logits:.3g}; other class: {_said(self.predictions, '.2%')}")
        if self.accuracy is not None:
            found.append(f"accuracy difference: {_said(self.accuracy, '+.2%')}")
        return [*found, f"{self.samples} samples; 95 % intervals in brackets"]


def _said(estimate: Estimate, form: str) -> str:
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def compare(original: nn.Module, imported: nn.Module, x: Tensor, y: Tensor | None = None, *, seed: int = 0) -> Conformance:
    """Replay x [N, ...] through both models under the contract and compare every spike; layers are paired in their order.

    A stochastic model gets the same draws in both. `y` [N] are labels, for the difference of the accuracy.
    """
    if len(x) == 0 or (y is not None and len(y) != len(x)):
        raise ConfigError(f"Expected at least one sample and as many labels, got {len(x)} and {None if y is None else len(y)}.")
    logits: list[tuple[Tensor, Tensor]] = []
    rows: dict[str, list[Tensor]] = {}
    counts: dict[str, int] = {}
    names: list[tuple[str, str]] = []
    unmatched = ""
    with frozen(original), frozen(imported), torch.no_grad():
        for start in range(0, len(x), BLOCK):
            block = x[start : start + BLOCK]
            ids = tuple(str(start + i) for i in range(len(block)))
            outputs, trains = zip(*(_replayed(model, block, ids, seed) for model in (original, imported)), strict=True)
            logits.append(outputs)
            names = list(zip(*trains, strict=False))
            shapes = [[tuple(spikes.shape) for spikes in train.values()] for train in trains]
            if shapes[0] != shapes[1]:
                unmatched = (
                    f"The layers of neurons are not compared: {len(shapes[0])} in the original, {len(shapes[1])} in the import."
                )
                continue
            for (name, _), ours, theirs in zip(names, *(train.values() for train in trains), strict=True):
                places = ours[:, 0].numel()
                each = [part.transpose(0, 1).flatten(1).double().sum(1) for part in (ours != theirs, ours, theirs)]
                rows.setdefault(name, []).append(torch.stack(each) / places)
                counts[name] = places
    before, after = (torch.cat(part) for part in zip(*logits, strict=True))
    layers = tuple(_layer(name, other, torch.cat(rows[name], 1), counts[name]) for name, other in names) if not unmatched else ()
    classes = before.argmax(1), after.argmax(1)
    accuracy = None if y is None else _difference((classes[1] == y).double() - (classes[0] == y).double())
    changed = (classes[0] != classes[1]).double()
    return Conformance(len(x), layers, float((before - after).abs().max()), _share(changed), accuracy, unmatched)


def _layer(name: str, other: str, shares: Tensor, places: int) -> LayerConformance:
    """From the shares [3, N] of each sample: spikes that differ, spikes of the original, spikes of the import."""
    differ, ours, theirs = shares
    mismatches = round(float(differ.sum()) * places)
    return LayerConformance(
        name, other, places * len(differ), mismatches, _share(differ), _share(ours), _difference(theirs - ours)
    )


def _share(values: Tensor) -> Estimate:
    mean = float(values.mean())
    return Estimate(mean, *wilson_of_mean(mean, len(values)))


def _difference(values: Tensor) -> Estimate:
    """Of values in [-1, 1]: what is above 0 less what is below, each with its interval."""
    more, less = (_share(part.clamp_min(0)) for part in (values, -values))
    return Estimate(float(values.mean()), more.low - less.high, more.high - less.low)


def _replayed(model: nn.Module, x: Tensor, ids: tuple[str, ...], seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the spikes [T, B, ...] of each layer of neurons by its name in the order in which they ran."""
    draws = Draws(seed, "conformance", ids) if is_stochastic(model) else None
    if isinstance(model, SpikingNetwork):  # whose neurons may run as one with the layer before them
        return _seen(model, x, draws)
    with _recording(model) as found:
        logits = model(x, generator=draws) if draws is not None else model(x)
    return logits, found


def _seen(model: SpikingNetwork, x: Tensor, draws: Draws | None) -> tuple[Tensor, dict[str, Tensor]]:
    found: dict[str, Tensor] = {}

    def keep(name: str, stage: object, out: Tensor) -> None:
        if isinstance(stage, SpikingNeuron):
            found[f"layers.{name}"] = out.unflatten(0, (model.spec.steps, len(x)))

    logits, _ = model._run(x, draws, keep)
    return mean_over_time(logits), found


@contextmanager
def _recording(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    neurons = {name: module for name, module in model.named_modules() if isinstance(module, SpikingNeuron)}

    def watched(name: str, neuron: SpikingNeuron) -> object:
        run = neuron._run

        def watch(*arguments: object) -> tuple[Tensor, Tensor]:
            result = run(*arguments)  # type: ignore[arg-type]
            found[name] = result[0]
            return result

        return watch

    try:
        for name, neuron in neurons.items():
            object.__setattr__(neuron, "_run", watched(name, neuron))
        yield found
    finally:
        for neuron in neurons.values():
            object.__delattr__(neuron, "_run")
