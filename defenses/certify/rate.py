"""The Bernoulli rate-coding radius: an L1 radius for the vote of a Poisson-coded network, which is smoothed by its own encoder.

A pixel x_i in [0, 1] becomes T independent spikes of probability x_i. Let P_x be the distribution of all spikes, p_c(x) = P_x(the network
says c) for any function of the spikes, and d = x' - x for another input x' in [0, 1].

1. Couple the two inputs by one uniform number for each pixel and step: a spike differs with probability |d_i|, independently, so

       TV(P_x, P_x') <= P(some spike differs) = 1 - prod_i (1 - |d_i|)^T.

2. log(1 - s) is concave, so among all d with |d|_1 = r < 1 the product is smallest where one pixel takes all of d:

       TV(P_x, P_x') <= 1 - (1 - r)^T <= T r.

   The first is attained: a pixel at 0 that moves to r spikes at all with probability 1 - (1 - r)^T, and never before. So no bound on the
   distance of the two distributions that depends on r alone is better. The second is the union bound over pixels and steps.
3. Each p_c moves by at most TV. With p_A >= a and p_c <= b for every other class, A stays the most probable class while 2 TV < a - b, so for

       |x' - x|_1 < R = 1 - (1 - (a - b) / 2)^(1/T),          at least (a - b) / (2 T), the radius by the union bound.

An input outside [0, 1] that is clipped first moves no further in L1, as x is inside: the radius holds for it too.
Beside it: Mukhoty et al., ICLR 2024 (certified robustness of rate-coded SNNs in L1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from trustsnn.defenses.certify.binomial import lower, upper
from trustsnn.defenses.certify.method import Sampled, check_images
from trustsnn.defenses.certify.votes import votes


def radius(low: float, high: float, steps: int) -> float:
    """R of the module's text for a = `low`, b = `high` and T = `steps`, L1 in input units; 0 where a <= b."""
    return max(0.0, 1 - math.pow(1 - (low - high) / 2, 1 / steps))


@dataclass(frozen=True, kw_only=True)
class Rate(Sampled):
    """The class that a Poisson-coded network names most often, with R as above.

    a is a lower bound on the probability of the class at alpha / 2, b the largest of the upper bounds on the K - 1 others, each at
    alpha / (2 (K - 1)), or 1 - a where that is less. By the union bound all of them hold at confidence 1 - alpha. Where a <= b the
    classifier abstains.
    """

    name: ClassVar[str] = "rate"
    norm: ClassVar[str] = "l1"

    def check(self, model: nn.Module) -> None:
        check_images(self, model)
        spec: Any = getattr(model, "spec", None)
        self.need(getattr(spec, "encoder", None) == "poisson", "a Poisson-coded model (encoder 'poisson')", _encoder(spec))

    def entry(self, model: nn.Module, x: Tensor, sample: str) -> dict[str, Any]:
        spec: Any = model.spec
        chosen = int(votes(model, x, sample, self.selection, task="certify/selection", seed=self.seed).argmax())
        counts = votes(model, x, sample, self.draws, task="certify/estimate", seed=self.seed).tolist()
        low = lower(counts[chosen], self.draws, self.alpha / 2)
        level = self.alpha / (2 * (len(counts) - 1))
        high = min(1 - low, max(upper(count, self.draws, level) for c, count in enumerate(counts) if c != chosen))
        sure = low > high
        return {
            "prediction": chosen if sure else None,
            "radius": radius(low, high, spec.steps) if sure else None,
            "union_radius": (low - high) / (2 * spec.steps) if sure else None,
            "selected": chosen,
            "counts": counts,
            "low": low,
            "high": high,
        }


def _encoder(spec: Any) -> str:
    return f"the encoder {getattr(spec, 'encoder', None)!r}"
