"""Honestly trained networks under the standard audit: what their own surrogate misses, and which findings there are.

    python benchmarks/honest.py

`conv` on digits in several forms, each trained as usual: ten with a graded readout, and one that counts spikes, whose
softmax saturates. The threshold of the finding "gradient-masking" rests on this table. The
audits lie under --keep, so that a killed run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import begin, options
from outcomes import Outcomes
from report import Report

import trustsnn
from trustsnn.data import load
from trustsnn.data.split import stratified
from trustsnn.models import build
from trustsnn.training import TrainConfig

FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"leak": 0.9},
    {"reset": "soft"},
    {"detach_reset": True},
    {"learn": True},
    {"steps": 8},
    {"readout": "spike-count", "steps": 8},
    {"surrogate": "rectangular"},
    {"surrogate": "sigmoid", "width": 0.25},
    {"surrogate": "atan", "width": 2.0},
    {"leak": 1.0},
)


def main() -> None:
    """One row a network."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--eps", default="0.05,0.1,0.15", help="radii, linf (default %(default)s)")
    parser.add_argument("--samples", type=int, default=200, help="test images (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of training (default %(default)s)")
    parser.add_argument("--profile", default="standard", help="of the audit (default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/attacks/honest"), help="(default %(default)s)")
    given = begin(parser)
    digits, outcomes = load("digits", "train"), Outcomes(given.keep / "networks")
    data, test = (stratified(digits, split, len(digits) // 5) for split in ("train", "test"))
    eps = [float(text) for text in given.eps.split(",")]
    rows = []
    for seed, form in enumerate(FORMS):
        model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5, seed=seed, **form)
        config = TrainConfig(epochs=given.epochs, batch_size=64, learning_rate=4e-3, seed=seed)
        model, _ = outcomes.trained(model, data, config)
        name = ", ".join(f"{key} {value}" for key, value in form.items()) or "as `trustsnn train bptt` has it"
        run = trustsnn.audit(
            model,
            test,
            samples=given.samples,
            eps=eps,
            profile=given.profile,
            seed=seed,
            out=given.keep / f"{given.profile}-{seed}",
        )
        cells = [cell for cell in run.summary["cells"] if cell["cell"]["threat"]["attack"] == "snn-autoattack"]
        pgd = {
            each["cell"]["threat"]["eps"]: each
            for each in reversed(run.summary["cells"])
            if each["cell"]["threat"]["attack"] == "pgd"
        }
        figures = [f"{_right(pgd[cell['cell']['threat']['eps']])}, {_right(cell)}; {_left(cell)}" for cell in cells]
        kinds = sorted({finding["type"] for finding in run.findings})
        rows.append([name, f"{run.clean_accuracy:.1%}", *figures, ", ".join(kinds) or "none"])
    columns = ["network", "clean", *(f"PGD, ensemble; own surrogate at twice {each:g}" for each in eps), "findings"]
    note = (
        f"{given.samples} test images. For each radius what PGD through the network's own surrogate leaves correct, what the ensemble "
        "leaves, and how many of the first 64 images that the ensemble broke APGD through the own surrogate leaves with twice the radius."
    )
    Report(f"Honest networks: conv on digits, profile {given.profile}", given).table(
        f"linf, eps {given.eps}", columns, rows, note
    )


def _right(cell: dict[str, Any]) -> str:
    return f"{cell['accuracy']['value']:.1%}"


def _left(cell: dict[str, Any]) -> str:
    twice = cell["diagnostics"]["own_surrogate_at_twice_the_budget"]
    return f"{twice['left']} of {twice['count']}"


if __name__ == "__main__":
    main()
