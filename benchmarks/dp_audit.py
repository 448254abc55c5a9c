"""The layout verifier and the one-run audit on layouts of time, under stock Opacus and with this project's gradients.

    python benchmarks/dp_audit.py
    python benchmarks/dp_audit.py --seeds 10 --canaries 1000 --hidden 256

The networks are those of `trustsnn.defenses.dp.layouts`, and a bundled one. All train on part of digits and the canaries with the noise that
the claimed eps takes. An audit's lower bound above that eps shows that the claim is false; one below it proves nothing.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from harness import begin, options
from report import Report
from torch import nn

from trustsnn.data import load
from trustsnn.defenses.dp import PrivacyConfig, Verification, noise_canaries, one_run_audit, per_sample_gradients, verify
from trustsnn.defenses.dp.gradients import PerSample
from trustsnn.defenses.dp.layouts import LAYOUTS, stock_opacus
from trustsnn.models import build

SHAPE, CLASSES = (1, 8, 8), 10


class Contender(NamedTuple):
    """A network, what computes its gradients, and whether an audit can take it."""

    name: str
    model: nn.Module
    gradients: PerSample
    audited: bool = True


def main() -> None:
    """One table of both."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--eps", type=float, default=2.0, help="claimed (default %(default)s)")
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--clip", type=float, default=0.05)
    parser.add_argument("--time-steps", type=int, default=8, help="T (default %(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="neurons (default %(default)s)")
    parser.add_argument("--canaries", type=int, default=400)
    parser.add_argument("--data", type=int, default=50, help="samples of digits beside them (default %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of training (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="audits of each (default %(default)s)")
    given = begin(parser)
    x, y = (torch.from_numpy(a) for a in load("digits", "train").batch(range(max(24, given.data))))
    privacy = PrivacyConfig(eps=given.eps, delta=given.delta, clip=given.clip)
    rows, raw = [], []
    for name, model, gradients, audited in contenders(given):
        begun = time.perf_counter()
        checked = verify(model, x, y, gradients=gradients)
        found = []
        for seed in range(given.seeds if audited else 0):
            canaries = noise_canaries(given.canaries, SHAPE, CLASSES, seed=seed)
            data = x[: given.data], y[: given.data]
            found.append(one_run_audit(model, data, canaries, privacy, gradients=gradients, steps=given.steps, seed=seed))
        taken = time.perf_counter() - begun
        rows.append([name, *_said(checked), *_guessed(found), f"{taken:.0f} s"])
        raw.append({"name": name, "verified": checked.ok, "sensitivity": repr(checked.sensitivity), "seconds": taken,
                    "audits": [vars(each) for each in found]})  # fmt: skip
        print(f"{name}: {checked.sentence}", *(each.sentence for each in found), sep="\n  ", flush=True)
    report = Report("Private training: layouts of time", given)
    report.table(
        f"eps {given.eps} at delta {given.delta:g} claimed, T = {given.time_steps}, {given.canaries} canaries",
        ["", "verifier", "error", "sensitivity / C", "right guesses", "eps at least (95 %)", "claimed eps", "claim", "time"],
        rows,
        "Guesses are summed over the seeds; of the lower bounds the largest is given. A single bound is wrong in 5 % of runs.",
        raw,
    )


def contenders(given: Namespace) -> Iterator[Contender]:
    """Every layout under stock Opacus, and the folded ones with this project's gradients."""
    for name, layout in LAYOUTS.items():
        for label, gradients in (("stock Opacus", stock_opacus), ("per_sample_gradients", per_sample_gradients)):
            torch.manual_seed(0)
            model = layout(int(np.prod(SHAPE)), CLASSES, hidden=given.hidden, steps=given.time_steps)
            yield Contender(f"{name}, {label}", model, gradients, label != "stock Opacus" or name != "stepped")
    bundled = build("mlp", input_shape=SHAPE, classes=CLASSES, channels=given.hidden / 256, steps=given.time_steps, norm="group")
    yield Contender("bundled mlp, per_sample_gradients", bundled, per_sample_gradients)


def _said(checked: Verification) -> list[str]:
    many = not np.isfinite(checked.error)
    return [
        "confirmed" if checked.ok else "refuted", "not comparable" if many else f"{checked.error:.1e}", f"{checked.sensitivity:.2f}",
    ]  # fmt: skip


def _guessed(found: list) -> list[str]:
    if not found:
        return ["not audited"] * 4
    right, guesses = sum(each.correct for each in found), sum(each.guesses for each in found)
    false = sum(not each.holds for each in found)
    verdict = f"false in {false} of {len(found)}" if false else f"not refuted in {len(found)}"
    return [f"{right} of {guesses}", f"{max(each.lower for each in found):.2f}", f"{found[0].eps:.2f}", verdict]


if __name__ == "__main__":
    main()
