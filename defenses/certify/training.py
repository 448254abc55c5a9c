"""Training for certificates: on interval bounds (S-IBP) and under Gaussian noise (randomised smoothing)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from trustsnn.defenses.certify.intervals import Interval, propagate
from trustsnn.defenses.certify.layers import Lif, check_network, layers_of
from trustsnn.defenses.robust.base import Robust
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons.estimator import mean_over_time
from trustsnn.rng import Draws
from trustsnn.settings import setting
from trustsnn.training.recipe import logits_of


@dataclass(frozen=True, kw_only=True)
class S_IBP(Robust):
    """(1 - share) CE(z) + share CE(worst z): the worst logits within the ball are the upper bounds of the other classes and the lower bound
    of the label (Gowal et al. 2018, arXiv 1810.12715; for LIF neurons Liang et al., NeurIPS 2022, arXiv 2205.01625).

    Bounds pass a spike with the surrogate of the model. The radius grows from 0 in equal steps, one an epoch: at the full radius from the
    start, no neuron of a fresh network is decided and nothing is learnt.

    Args:
        eps: L-inf radius, in input units.
        share: of the worst case in the loss.
        ramp: epochs until the radius is `eps`.
    """

    eps: float = setting(0.05, 0.0, 1.0, above=True)
    share: float = setting(0.5, 0.0, 1.0)
    ramp: int = setting(10)

    name: ClassVar[str] = "s-ibp"
    alone: ClassVar[bool] = True

    def check(self, model: SpikingNetwork) -> None:
        super().check(model)
        check_network(model)

    def losses(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
        """One loss."""
        self.check(model)
        logits = logits_of(model, x, draws)
        radius = self.eps * (min(1.0, _epoch(draws) / self.ramp) if self.ramp else 1.0)
        box = Interval((x - radius).clamp(0, 1)[None], (x + radius).clamp(0, 1)[None], torch.zeros_like(x)[None])
        _, out = propagate(layers_of(model, x.dtype), box, spike=surrogate_spike, rounded=False)
        own = one_hot(y, logits.shape[1]).bool()
        worst = torch.where(own, mean_over_time(out.low), mean_over_time(out.high))
        plain = cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        yield (1 - self.share) * plain + self.share * cross_entropy(worst, y), logits


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Robust):
    """Each sample as clip(x + sigma * N(0, 1), 0, 1): what a smoothed classifier is asked (Cohen 2019, section 3.3)."""

    sigma: float = setting(0.25, 0.0, above=True)

    name: ClassVar[str] = "gaussian-noise"

    def inputs(self, model: SpikingNetwork, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        noise = draws.child("noise").normal(tuple(x.shape[1:])).to(x)
        return (x + self.sigma * noise).clamp(0, 1)


def _epoch(draws: Draws) -> int:
    """The epoch, from 0, by which `train` names a batch's draws: a run that goes on after a break is where it was."""
    return int(draws.task.rpartition("/")[2])


def surrogate_spike(lif: Lif, membrane: Tensor) -> Tensor:
    """The spikes of a membrane, with the gradient of the layer's surrogate."""
    distance = membrane - lif.threshold
    slope = lif.neuron.estimator.surrogate.derivative(distance.detach())  # type: ignore[attr-defined]
    passed = distance * slope
    spikes: Tensor = lif.fires(membrane).to(membrane.dtype) + passed - passed.detach()
    return spikes
