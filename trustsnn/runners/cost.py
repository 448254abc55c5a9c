"""What ensembles will cost at most, told before they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.bisection import Bisection
from trustsnn.attacks.losses import cross_entropy
from trustsnn.blocks import frozen, input_gradient, is_stochastic, predict
from trustsnn.rng import Draws


def predicted(attacks: Iterable[object], model: nn.Module, x: Tensor, y: Tensor, samples: int) -> list[str]:
    """One line on each kind of attack among `attacks` that says what it costs, at the speed of one block `x` [B, ...]."""
    kinds: dict[str, list[tuple[int, int]]] = {}
    for attack in attacks:
        if isinstance(attack, SNNAutoAttack | Bisection):
            kinds.setdefault(attack.name, []).append(attack.cost(model))
    draws = Draws(0, "cost", tuple(f"cost-{i}" for i in range(len(x)))) if is_stochastic(model) else None
    with frozen(model):
        forward = _seconds(lambda: predict(model, x, draws))
        gradient = _seconds(lambda: input_gradient(model, x, y, cross_entropy, draws))
    lines = []
    for name, costs in kinds.items():
        seconds = sum(g * gradient + f * forward for g, f in costs) * samples / len(x)
        gradients, forwards = max(costs)
        cells = "1 cell" if len(costs) == 1 else f"{len(costs)} cells"
        lines.append(
            f"{name}: at most {gradients:,} gradients and {forwards:,} forward passes a sample, {_time(seconds)} for "
            f"{samples:,} samples in {cells} if none of them breaks. Broken samples leave; checks of a figure, on 64 samples at most, come on top."
        )
    return lines


def _seconds(work: Callable[[], object]) -> float:
    """The faster of two runs after a first."""
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
