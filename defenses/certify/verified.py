"""Verified L-inf radii by S-IBP or S-CROWN: what no input within eps can change, found by bisection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.blocks import frozen, predict
from trustsnn.defenses.certify.crown import lower, refined
from trustsnn.defenses.certify.intervals import ball, propagate
from trustsnn.defenses.certify.layers import UNIT, Layers, check_network, layers_of
from trustsnn.defenses.certify.method import Method

METHODS = ("ibp", "crown")


def margins(layers: Layers, x: Tensor, label: int, eps: float, *, crown: bool, refine: int) -> Tensor:
    """Lower bounds [K - 1] on the logit of `label` minus each other one, over all inputs within `eps` of `x` [C, H, W] in L-inf and in
    [0, 1]. They hold for the forward pass in float32 (see `intervals.currents`)."""
    h = ball(x.double()[None], eps)
    seen, out = refined(layers, h, refine=refine) if crown else propagate(layers, h)
    classes, steps = out.low.shape[2], layers.steps
    others = [c for c in range(classes) if c != label]
    wanted = torch.zeros((classes - 1, steps, classes), dtype=torch.float64)
    wanted[:, :, label] = 1 / steps
    wanted[range(classes - 1), :, others] = -1 / steps
    largest = torch.maximum(out.low.abs(), out.high.abs())
    error = (wanted.abs() * (out.error + (steps + 1) * UNIT * largest)[:, 0]).flatten(1).sum(1)
    return lower(layers, seen, h, len(layers.blocks) - 1, wanted, deep=crown) - error


@dataclass(frozen=True, kw_only=True)
class Verified(Method):
    """The largest of `largest` k / 2^rounds, k = 1, 2, ..., that a bisection verifies for a sample; with rounds = 0 `largest` or nothing.

    The class is that of the model at the sample, right or wrong. `refine`: S-CROWN bounds the membranes of layers of at most so many
    neurons by linear bounds, those of larger ones by intervals.
    """

    method: str = "crown"
    largest: float = 0.1
    rounds: int = 6
    refine: int = 512

    norm: ClassVar[str] = "linf"

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.method

    def __post_init__(self) -> None:
        self.need(self.method in METHODS, f"one of {METHODS}", self.method)
        self.need(math.isfinite(self.largest) and 0 < self.largest <= 1, "an eps in (0, 1]", self.largest)
        for name, high in (("rounds", 20), ("refine", 1 << 20)):
            value = getattr(self, name)
            self.need(type(value) is int and 0 <= value <= high, f"{name} from 0 to {high}", value)

    def check(self, model: nn.Module) -> None:
        with frozen(model):
            layers_of(check_network(model), torch.float64)

    def entry(self, model: nn.Module, x: Tensor, sample: str) -> dict[str, Any]:
        layers = layers_of(check_network(model), torch.float64)
        label = int(predict(model, x[None]).argmax(1))

        def margin(eps: float) -> float:
            with torch.no_grad():
                return float(margins(layers, x, label, eps, crown=self.method == "crown", refine=self.refine).min())

        best, known, refuted = margin(self.largest), 0, 2**self.rounds
        if best > 0:
            known = refuted
        while refuted - known > 1:
            middle = (known + refuted) // 2
            found = margin(self.eps_of(middle))
            if found > 0:
                best, known = found, middle
            else:
                refuted = middle
        return {
            "prediction": label,
            "radius": self.eps_of(known) if known else None,
            "margin": best if known else None,
        }

    def eps_of(self, place: int) -> float:
        """The eps at a place of the bisection."""
        return self.largest * place / float(2**self.rounds)
