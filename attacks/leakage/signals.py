"""What an attacker sees of samples in a model: its confidence, and what a spiking model shows beyond the final logit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.attacks.leakage.membership import logit_of
from trustsnn.blocks import frozen, is_stochastic, predict, unrolled
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.rng import Draws

Floats = NDArray[np.float64]

FEATURES = {
    "confidence": "log(p / (1 - p)) of the label's softmax p",
    "steps": "the same at each time step, of that step's logits",
    "membrane": "how far the label's readout membrane is above the next one after the last step",
    "spike-counts": "mean spikes of a neuron, layer by layer",
    "first-spike": "mean time step of a neuron's first spike, layer by layer, T where it has none",
}
SCALES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of the noise that labels are asked under


@dataclass(frozen=True)
class Signals:
    """Of N samples: the label's probability [N], whether it is predicted [N], and the `features` by name, [N, D]; those of spikes only
    where neurons spike."""

    probability: Floats
    correct: NDArray[np.bool_]
    features: dict[str, Floats]


def signals(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, *, queries: int = 1) -> Signals:
    """The signals of samples `x` [N, ...] with labels `y` [N]; of a stochastic model the mean over `queries` forward passes."""
    repeats = queries if is_stochastic(model) else 1
    with frozen(model):
        seen = [_once(model, x, y, draws.child("signals", k)) for k in range(repeats)]
    probability, votes = np.mean([each[0] for each in seen], 0), np.mean([each[1] for each in seen], 0)
    features = {name: np.mean([each[2][name] for each in seen], 0) for name in seen[0][2]}
    return Signals(probability, votes > 0.5, {"confidence": logit_of(probability)[:, None], **features})


def _once(model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> tuple[Floats, Floats, dict[str, Floats]]:
    rows: list[tuple[Floats, Floats, dict[str, Floats]]] = []
    spikes = all(neuron.binary for neuron in model.modules() if isinstance(neuron, SpikingNeuron))
    for part, trace in unrolled(model, x, draws):
        labels = y[part]
        logits = trace.logits.double()
        mean = logits.mean(0)
        found: dict[str, Tensor] = {}
        if len(logits) > 1:
            at_steps = torch.stack([_probability(step, labels) for step in logits], 1)
            found["steps"] = torch.from_numpy(logit_of(at_steps.numpy()))
        found["membrane"] = _margin(trace.membrane[-1].double(), labels)[:, None]
        if spikes and trace.spike_counts:
            found["spike-counts"] = torch.stack([c.double().flatten(1).mean(1) for c in trace.spike_counts.values()], 1)
        values = {name: value.numpy() for name, value in found.items()}
        rows.append((_probability(mean, labels).numpy(), (mean.argmax(1) == labels).double().numpy(), values))
    features = {name: np.concatenate([row[2][name] for row in rows]) for name in rows[0][2]}
    if spikes and isinstance(model, SpikingNetwork):
        features["first-spike"] = first_spikes(model, x, draws)
    return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows]), features


def first_spikes(model: SpikingNetwork, x: Tensor, draws: Draws) -> Floats:
    """The mean time step, from 0, of a neuron's first spike, T where it has none, of each sample in each layer [N, layers]."""
    found = []
    for start in range(0, len(x), 256):
        rows = range(start, min(start + 256, len(x)))
        generator = draws.select(rows) if is_stochastic(model) else None
        with torch.no_grad():
            found.append(torch.stack([each.double() for each in model.first_spikes(x[start : rows.stop], generator).values()], 1))
    return np.asarray(torch.cat(found).numpy())


def dropout_ensemble(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, *, copies: int = 20, rate: float = 0.01) -> Floats:
    """The mean probability of the label over `copies` of each sample in which every entry is set to 0 with probability `rate` (Guan
    2024: a member stays confident). [N]"""
    total = np.zeros(len(x))
    with frozen(model):
        for copy in range(copies):
            here = draws.child("dropout", copy)
            kept = here.uniform(tuple(x.shape[1:])) >= rate
            total += _probability(predict(model, x * kept, here).double(), y).numpy()
    return total / copies


def label_only(model: nn.Module, x: Tensor, y: Tensor, draws: Draws, *, copies: int = 10) -> Floats:
    """The share of noisy copies whose predicted class is the label, over the noises `SCALES` and `copies` of each (Choquette-Choo 2021): Gaussian
    noise on images, held in [0, 1]; entries set to 0 with that probability on events. [N]"""
    spec = getattr(model, "spec", None)
    image = spec is None or spec.domain == "image"
    hits = np.zeros(len(x))
    with frozen(model):
        for copy in range(copies):
            for scale in SCALES:
                here = draws.child("labels", copy, scale)
                shape = tuple(x.shape[1:])
                noisy = (x + scale * here.normal(shape)).clamp(0, 1) if image else x * (here.uniform(shape) >= scale)
                hits += (predict(model, noisy, here).argmax(1) == y).numpy()
    return hits / (copies * len(SCALES))


def _probability(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]


def _margin(values: Tensor, labels: Tensor) -> Tensor:
    own = values.gather(1, labels[:, None])[:, 0]
    return own - values.scatter(1, labels[:, None], -torch.inf).amax(1)
