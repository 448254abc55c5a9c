"""Many short runs or few long ones: what APGD through the own surrogate and through ASSG leaves for the same number of gradients.

    python benchmarks/long_runs.py
    python benchmarks/long_runs.py --data cifar10 --eps 2/255

A row runs the attack so often with so many steps that both together are --gradients. The images go at once; what was computed is kept
under --keep, so that a killed run goes on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness import begin, images, options
from model import RECIPES, trained
from outcomes import Lines
from report import Report, share_of
from strength import attacked

from trustsnn.attacks import APGD
from trustsnn.attacks.estimators import estimator
from trustsnn.checkpoint import model_hash
from trustsnn.runners.config import parse_eps


def main() -> None:
    """One table."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", choices=list(RECIPES), default="mnist", help="and with it the network (default %(default)s)")
    parser.add_argument("--model", type=Path, help="take this checkpoint folder")
    parser.add_argument("--eps", default="0.07", help="radius, linf (default %(default)s)")
    parser.add_argument("--samples", type=int, default=250, help="test images (default %(default)s)")
    parser.add_argument("--gradients", type=int, default=1000, help="of an image at most (default %(default)s)")
    parser.add_argument("--steps", default="50,100,200,500,1000", help="of one run (default %(default)s)")
    parser.add_argument("--estimators", default="own,assg", help="(default %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("runs/attacks/long_runs.jsonl"), help="(default %(default)s)")
    given = begin(parser)
    model = trained(given.model or RECIPES[given.data].folder)
    x, y = images(given.data, "test", given.samples)
    ids = [f"{given.data}-{row}" for row in range(len(x))]
    kept, eps, digest = Lines(given.keep), parse_eps(given.eps), model_hash(model)
    rows = []
    for steps in map(int, given.steps.split(",")):
        runs = max(1, given.gradients // steps)
        row = [str(runs), str(steps)]
        for name in given.estimators.split(","):
            through = None if name == "own" else estimator(name=name)
            attack = APGD(eps=eps, steps=steps, restarts=runs, loss="ce-scaled", estimator=through)
            decides = {
                "model": digest, "data": [given.data, "test", len(x)], "threat": attack.describe(), "estimator": name,
                "seed": attack.seed, "threads": given.threads,
            }  # fmt: skip
            found = kept.get(decides, partial(attacked, model, attack, x, y, ids))
            row += [share_of(int(found["correct"].sum()), len(x)), f"{float(found['processor']):.0f} s"]
            print(f"  {runs} x {steps} through {name}: {row[-2]}, {row[-1]}", flush=True)
        rows.append(row)
    report = Report(f"Many short runs or few long ones: {model.architecture['name']} on {given.data}, linf", given)
    columns = ["runs", "steps of each"]
    columns += [text for name in given.estimators.split(",") for text in (f"left by APGD through {name}", "time")]
    report.table(f"eps {given.eps}, {len(x)} images", columns, rows, "Wilson intervals of 95 %; processor time.")


if __name__ == "__main__":
    main()
