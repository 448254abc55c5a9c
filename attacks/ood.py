"""Out-of-distribution detection: can a model's own signals tell inputs that it was not made for?

Scores are larger for inputs that look in-distribution: energy (Liu 2020, arXiv 2010.03759), the largest logit (Hendrycks
2022, arXiv 1911.11132), the largest softmax probability (Hendrycks and Gimpel 2017, arXiv 1610.02136), and, for spiking
networks, how typical the spike rate is, in total and per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit, logsumexp, ndtri
from torch import Tensor, nn

from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.errors import ConfigError, DataError
from trustsnn.rng import Draws
from trustsnn.statistics import Figure, clopper_pearson, placements, proportion

Scores = NDArray[np.float64]
TRUE_POSITIVE_RATE = 0.95


@dataclass(frozen=True)
class Signals:
    """Logits [B, K] of a batch and each sample's spikes per neuron and step [B]: "total", then each spiking layer by name."""

    logits: NDArray[np.float64]
    rates: dict[str, NDArray[np.float64]]


class _Rates(nn.Module):
    """A model whose outputs are its logits followed by its spike rates, [B, K + 1 + layers] in double precision, so that
    `blocks.predict` takes care of both."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.names: list[str] = []
        for name in ("spec", "independent", "affordable"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def forward(self, x: Tensor, generator: Draws | None = None) -> Tensor:
        trace = self.model.unroll(x) if generator is None else self.model.unroll(x, generator)
        logits: Tensor = trace.logits.mean(0).double()
        counts = trace.spike_counts
        if not counts:
            return logits
        self.names = ["total", *counts]
        spikes = torch.stack([each.flatten(1).sum(1, dtype=torch.float64) for each in counts.values()], 1)
        places = spikes.new_tensor([each[0].numel() * trace.steps for each in counts.values()])
        return torch.cat([logits, spikes.sum(1, keepdim=True) / places.sum(), spikes / places], 1)


def signals(model: nn.Module, x: Tensor, ids: Sequence[str], seed: int = 0) -> Signals:
    """The model's logits and spike rates on `x` [B, ...]; a model without `unroll` has no rates. `ids` key the draws of a
    stochastic model. The result depends neither on the batch size nor on the order."""
    if len(ids) != len(x) or len(x) == 0:
        raise ConfigError(f"Expected at least one sample and one id a sample, got {len(x)} samples and {len(ids)} ids.")
    draws = Draws(seed, "ood", tuple(map(str, ids))) if is_stochastic(model) else None
    with frozen(model):
        if not hasattr(model, "unroll"):
            return Signals(predict(model, x, draws).double().cpu().numpy(), {})
        observed = _Rates(model)
        outputs = predict(observed, x, draws).cpu().numpy()
    classes = outputs.shape[1] - len(observed.names)
    return Signals(outputs[:, :classes], {name: outputs[:, classes + i] for i, name in enumerate(observed.names)})


def scores(seen: Signals, reference: Signals | None = None) -> dict[str, Scores]:
    """Every score of a batch, [B] each and larger where a sample looks in-distribution.

    "energy": log sum_k exp z_k, the negative free energy at temperature 1. "max-logit": max_k z_k. "max-softmax": the log of
    the largest probability, which ranks as the probability does and does not saturate. "spike-rate/...": minus the distance
    of the rate from its mean over `reference`, in-distribution samples other than those that are judged.
    """
    if not np.isfinite(seen.logits).all():
        raise DataError("Expected finite logits, got NaN or infinity: they cannot be ranked.")
    energy, largest = logsumexp(seen.logits, axis=1), seen.logits.max(1)
    found: dict[str, Scores] = {"energy": energy, "max-logit": largest, "max-softmax": largest - energy}
    if reference is not None:
        if seen.rates.keys() != reference.rates.keys():
            raise ConfigError("Expected the signals and the reference to be of one model; their layers differ.")
        for name, rate in seen.rates.items():
            found[f"spike-rate/{name}"] = -np.abs(rate - reference.rates[name].mean())
    return found


@dataclass(frozen=True)
class Detection:
    """How well a score tells inside from outside: the area under the ROC curve with its 95 % interval, all in [0, 1], the
    outside samples that pass where 95 % of the inside ones do, and the number of samples of both kinds."""

    auroc: float
    low: float
    high: float
    fpr_at_95_tpr: Figure
    inside: int
    outside: int


def detection(inside: Scores, outside: Scores) -> Detection:
    """The detection figures of one score, from its values on in-distribution [N] and other samples [M], at least 2 of each.

    AUROC is the probability that an inside sample scores higher than an outside one, ties counted half. Its interval is
    DeLong's (1988, by mid-ranks as Sun and Xu 2014) on the logit scale. Where that has no width, as for perfect separation,
    it is Clopper-Pearson's on min(N, M) disjoint pairs. The FPR's interval takes the threshold as given.
    """
    n, m = len(inside), len(outside)
    if min(n, m) < 2 or not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        raise DataError(f"Expected at least 2 finite scores of each kind, got {n} inside and {m} outside, or NaN or infinity.")
    above, below = placements(inside, outside)
    auroc = float(above.mean())
    deviation = float(np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m))
    if 0 < auroc < 1 and deviation > 0:
        half = float(ndtri(0.975)) * deviation / (auroc * (1 - auroc))
        low, high = (float(expit(logit(auroc) + side)) for side in (-half, half))
    else:
        low, high = clopper_pearson(round(auroc * min(n, m)), min(n, m))
    threshold = np.sort(inside)[n - ceil(TRUE_POSITIVE_RATE * n)]
    return Detection(auroc, low, high, proportion(int((outside >= threshold).sum()), m), n, m)


def evaluate_ood(inside: Signals, outside: Signals, reference: Signals | None = None) -> dict[str, Detection]:
    """The detection figures of every score, by name."""
    within, without = scores(inside, reference), scores(outside, reference)
    return {name: detection(within[name], without[name]) for name in within}


def uniform_noise(x: Tensor, draws: Draws) -> Tensor:
    """Images of uniform noise in [0, 1), shaped as `x`."""
    return draws.child("uniform-noise").uniform(tuple(x.shape[1:])).to(x.device, x.dtype)


def shuffled(x: Tensor, draws: Draws) -> Tensor:
    """Each sample's own values in a random order: no structure, and the same histogram or number of events."""
    order = draws.child("shuffled").uniform((x[0].numel(),)).argsort(stable=True, dim=1).to(x.device)
    return x.flatten(1).gather(1, order).view_as(x)
