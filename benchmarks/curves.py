"""How much breaks a network: the smallest eps of each image by bisection, and robust accuracy against steps and restarts.

    python benchmarks/curves.py
    python benchmarks/curves.py --data cifar10
    python benchmarks/curves.py --norm l2

The smallest eps is that of PGD-20 and of the quick snn-autoattack, up to --largest; steps and restarts are those of PGD at --eps.
The images go by in chunks. What was computed is kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import begin, images, options
from model import RECIPES, trained
from numpy.typing import NDArray
from outcomes import Arrays, Outcomes
from report import Report
from torch import Tensor

from trustsnn.attacks import PGD, Attack, BudgetCurve, EpsCurve, restarts_curve, robust_curve, smallest_eps, steps_curve
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.curves import budget_curve
from trustsnn.checkpoint import model_hash
from trustsnn.runners.config import parse_eps

LARGEST = {("mnist", "linf"): 0.2, ("mnist", "l2"): 3.0, ("cifar10", "linf"): 8 / 255, ("cifar10", "l2"): 1.0}
PLACES = 8  # where the curve against eps is read, beside 0

Compute = Callable[[Tensor, Tensor, list[str]], Arrays]


def main() -> None:
    """One table against eps, one against steps, one against restarts."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    largest = given.largest or LARGEST[given.data, given.norm]
    eps = given.eps or largest / 2
    model = trained(given.model or RECIPES[given.data].folder)
    x, y = images(given.data, "test", given.samples)
    outcomes, digest = Outcomes(given.keep), model_hash(model)

    def kept(what: dict[str, Any], attack: Attack, compute: Compute) -> NDArray[Any]:
        """What `compute` finds on all images, put together along the last axis."""
        parts = []
        for start in range(0, len(x), given.chunk):
            rows = slice(start, min(start + given.chunk, len(x)))
            data = [given.data, "test", given.samples, rows.start, rows.stop]
            run = {"threat": attack.describe(), "seed": attack.seed, "threads": given.threads}
            decides = {**what, **run, "model": digest, "data": data}
            ids = [f"{given.data}-{row}" for row in range(rows.start, rows.stop)]
            parts.append(outcomes.get(decides, lambda rows=rows, ids=ids: compute(x[rows], y[rows], ids))["found"])
        return np.concatenate(parts, axis=-1)

    report = Report(
        f"How much breaks {model.architecture['name']} on {given.data}, T = {model.spec.steps}, {given.norm}, {len(x)} images",
        given,
    )
    searched = {
        "PGD-20": PGD(eps=largest, norm=given.norm, steps=20),
        "snn-autoattack, quick": SNNAutoAttack(eps=largest, norm=given.norm, profile="quick"),
    }
    found = {}
    for name, attack in searched.items():

        def smallest(part: Tensor, labels: Tensor, ids: list[str], attack: Attack = attack) -> Arrays:
            search = smallest_eps(attack, model, part, labels, ids, largest=largest, rounds=given.rounds)
            return {"found": search.eps}

        found[name] = kept({"smallest": largest, "rounds": given.rounds}, attack, smallest)
    _eps_table(report, found, largest, given.norm)
    attack = PGD(eps=eps, norm=given.norm, steps=20)
    for title, budgets, curve in (("steps", given.steps, steps_curve), ("restarts", given.restarts, restarts_curve)):

        def robust(part: Tensor, labels: Tensor, ids: list[str], budgets: Any = budgets, curve: Any = curve) -> Arrays:
            return {"found": curve(attack, model, part, labels, ids, budgets).robust}

        outcome = budget_curve([0, *budgets], kept({title: budgets}, attack, robust))
        _budget_table(report, title, outcome, f"{'PGD' if title == 'steps' else 'PGD-20'}, eps {eps:.4g}")


def _arguments(parser: ArgumentParser) -> None:
    def numbers(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    def radius(text: str) -> float:
        try:
            return parse_eps(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error

    parser.add_argument("--data", choices=list(RECIPES), default="mnist", help="and with it the network (default %(default)s)")
    parser.add_argument("--model", type=Path, help="take this checkpoint folder")
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf", help="(default %(default)s)")
    parser.add_argument("--largest", type=radius, help="eps that the bisection begins at (default: by data set and norm)")
    parser.add_argument("--rounds", type=int, default=8, help="of bisection (default %(default)s)")
    parser.add_argument("--eps", type=radius, help="of the curves against steps and restarts (default: half of --largest)")
    parser.add_argument("--steps", type=numbers, default=[1, 2, 5, 10, 20, 50, 100], help="with commas (default 1,2,5,...,100)")
    parser.add_argument("--restarts", type=numbers, default=[1, 2, 5, 10], help="with commas (default 1,2,5,10)")
    parser.add_argument("--samples", type=int, default=200, help="test images (default %(default)s)")
    parser.add_argument("--chunk", type=int, default=50, help="images that are searched at once (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/attacks/outcomes"), help="(default %(default)s)")


def _eps_table(report: Report, found: dict[str, NDArray[np.float64]], largest: float, norm: str) -> None:
    at = [largest * place / PLACES for place in range(PLACES + 1)]
    curves = {name: robust_curve(smallest, largest, at) for name, smallest in found.items()}
    rows = [[f"{eps:.4g}", *(_share(curve, place) for curve in curves.values())] for place, eps in enumerate(at)]
    rows.append(["median smallest eps", *(_median(curve, largest) for curve in curves.values())])
    raw = {name: [eps if np.isfinite(eps) else None for eps in smallest.tolist()] for name, smallest in found.items()}
    report.table(
        "Robust accuracy against eps",
        [f"eps, {norm}", *curves],
        rows,
        "95 % intervals: Wilson; of the median by order statistics. An image counts up to the smallest perturbation that was found.",
        raw,
    )


def _budget_table(report: Report, title: str, curves: BudgetCurve, attack: str) -> None:
    gains = ["", *(f"{gain.value:.1%} ({gain.low:.1%} to {gain.high:.1%}; p = {gain.p_value:.2g})" for gain in curves.gains)]
    rows = [
        [f"{budget:g}", _share(curves.own, place), _share(curves.worst, place), gains[place]]
        for place, budget in enumerate(curves.own.at)
    ]
    report.table(
        f"Robust accuracy against {title}: {attack}",
        [title, "robust", "worst case so far", "broken more than in the row above"],
        rows,
        "95 % intervals: Wilson; of the paired gain Newcombe's. p: exact McNemar test.",
        {"at": curves.own.at.tolist(), "robust": curves.own.robust.tolist(), "worst": curves.worst.robust.tolist()},
    )


def _share(curve: Any, place: int) -> str:
    low, high = curve.low[place], curve.high[place]
    return f"{curve.value[place]:.1%} ({curve.robust[place]} of {curve.count}; {low:.1%} to {high:.1%})"


def _median(curve: EpsCurve, largest: float) -> str:
    value, low, high = (f"{each:.4g}" if np.isfinite(each) else f"above {largest:.4g}" for each in curve.median)
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    main()
