"""Randomised smoothing (Cohen, Rosenfeld and Kolter, ICML 2019, arXiv 1902.02918): an L2 radius for a vote under Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from scipy.stats import norm
from torch import Tensor, nn

from trustsnn.defenses.certify.binomial import lower
from trustsnn.defenses.certify.method import Sampled, check_images
from trustsnn.defenses.certify.votes import votes


@dataclass(frozen=True, kw_only=True)
class Smoothing(Sampled):
    """The class that f(x + sigma * N(0, I)) takes most often does not change for any x' with |x' - x|_2 < R,

        R = sigma * Phi^-1(p),   p the lower bound on the probability of the class, R only where p > 1/2.

    `selection` draws choose the class, `draws` others bound its probability at confidence 1 - alpha, so that p is no bound on a
    class that was chosen by the same draws. Where p is 1/2 or less the classifier abstains.

    f(z) = argmax model(clip(z, 0, 1)) is fixed, so clipping costs nothing of the theorem. A stochastic model draws besides: with q(z) in
    [0, 1] its probability of the class at z over its own draws, the probability above is E q(x + noise), and Phi^-1 of it is
    1/sigma-Lipschitz for every measurable q: R^d -> [0, 1] (Salman et al. 2019, arXiv 1906.04584, lemma 2), which is the theorem again.

    The statement is about ideal Gaussian noise. Draws are float32 and pseudo-random, and sums x + noise are rounded.
    """

    sigma: float = 0.25

    name: ClassVar[str] = "smoothing"
    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(0 < self.sigma < float("inf"), "a positive sigma", self.sigma)

    def check(self, model: nn.Module) -> None:
        check_images(self, model)

    def entry(self, model: nn.Module, x: Tensor, sample: str) -> dict[str, Any]:
        seen: dict[str, Any] = {"seed": self.seed, "sigma": self.sigma}
        chosen = int(votes(model, x, sample, self.selection, task="certify/selection", **seen).argmax())
        successes = int(votes(model, x, sample, self.draws, task="certify/estimate", **seen)[chosen])
        low = lower(successes, self.draws, self.alpha)
        sure = low > 0.5
        return {
            "prediction": chosen if sure else None,
            "radius": self.sigma * float(norm.ppf(low)) if sure else None,
            "selected": chosen,
            "successes": successes,
            "low": low,
        }
