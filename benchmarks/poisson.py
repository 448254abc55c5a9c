"""Expectation over transformation on a rate-coded network: PGD, APGD and the ensemble by draws behind a gradient and by seed.

    python benchmarks/poisson.py

`conv` under Poisson rate coding on a part of MNIST, attacked with several numbers of draws (EOT) and several seeds of the attack,
on the same images. What was computed is kept under --keep, so that a killed run goes on.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser

import numpy as np
from harness import begin, options
from inherent import answers, network, numbers, recipe, training_options
from numpy.typing import NDArray
from outcomes import Outcomes
from report import Report, share_of
from scipy.stats import t as student

from trustsnn.attacks import APGD, PGD, Attack
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.data import load
from trustsnn.runners.config import parse_eps

Shares = NDArray[np.float64]


def attacks(eps: float, eot: int, seed: int, iterations: int) -> dict[str, Attack]:
    """The attacks by name."""
    return {
        f"PGD-{iterations}": PGD(eps=eps, steps=iterations, eot=eot, seed=seed),
        f"APGD-{iterations}": APGD(eps=eps, steps=iterations, eot=eot, seed=seed),
        "ensemble, quick": SNNAutoAttack(eps=eps, profile="quick", eot=eot, seed=seed),
    }


def one_draw(clean: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Shares:
    """For each image the share of the judging draws that get it right without and under an attack [N], by both logits [D, N, K]."""
    shares: Shares = ((clean.argmax(2) == labels) & (logits.argmax(2) == labels)).mean(0)
    return shares


def by_mean(clean: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The share of the images that the mean of the logits [D, N, K] over the judging draws gets right, without and under an attack."""
    return float(((clean.mean(0).argmax(1) == labels) & (logits.mean(0).argmax(1) == labels)).mean())


def interval(each: Shares, unit: str = "%", sign: str = "") -> str:
    """The mean of one value an image [N], times 100, with its 95 % interval over the images (Student)."""
    percent = 100 * each
    half = float(student.ppf(0.975, len(each) - 1)) * percent.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.inf
    middle = percent.mean()
    return f"{middle:{sign}.1f}{unit} ({middle - half:{sign}.1f} to {middle + half:{sign}.1f})"


def main() -> None:
    """One table."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    outcomes = Outcomes(given.keep)
    eps, seeds = parse_eps(given.eps), range(given.seeds)
    settings = {"encoder": "poisson", "steps": given.steps, "leak": given.leak}
    model, _ = outcomes.trained(network(settings, 0, given.channels), load("mnist", "train").take(given.train), recipe(given))
    test = load("mnist", "test").take(given.samples)
    clean = answers(model, None, test, given.judges, outcomes)
    single = [int((each.argmax(1) == test.labels).sum()) for each in clean]
    found: dict[str, dict[int, list[NDArray[np.float32]]]] = {}
    for eot in numbers(given.eot):
        for seed in seeds:
            for name, attack in attacks(eps, eot, seed, given.iterations).items():
                found.setdefault(name, {}).setdefault(eot, []).append(answers(model, attack, test, given.judges, outcomes))
                print(f"  {name}, EOT {eot}, seed {seed}", file=sys.stderr)
    rows, raw = [], []
    for name, by_eot in found.items():
        first = None
        for eot, runs in by_eot.items():
            shares = np.stack([one_draw(clean, each, test.labels) for each in runs])
            means = [by_mean(clean, each, test.labels) for each in runs]
            each_seed = shares.mean(1)
            rows.append([
                name, str(eot), *(f"{value:.1%}" for value in each_seed), interval(shares.mean(0)),
                f"{100 * np.ptp(each_seed):.1f}", "" if first is None else interval(shares.mean(0) - first, "", "+"),
                f"{np.mean(means):.1%} ({min(means):.1%} to {max(means):.1%})",
            ])  # fmt: skip
            first = shares.mean(0) if first is None else first
            raw.append({"attack": name, "eot": eot, "by one draw": each_seed.tolist(), "by the mean": means})
    columns = ["attack", "EOT", *(f"seed {seed}" for seed in seeds), "mean (95 %)", "range over seeds, points"]
    columns += [f"points above EOT {numbers(given.eot)[0]} (95 %)", "by the mean of the logits (lowest to highest seed)"]
    clean_share = share_of(round(sum(single) / len(single)), len(test))
    Report(f"Attack seeds and EOT on a rate-coded network: conv on MNIST, T {given.steps}", given).table(
        f"Robust accuracy, linf eps {given.eps}", columns, rows,
        f"{len(test)} test images, the same for every row. What an attack returns is judged by {given.judges} draws of the encoder that "
        "belong to the judge alone: no attack has seen them, and they are the same for every row. A seed's figure is the mean over "
        "these draws of the share that one draw gets right, without and under the attack. The intervals are over images "
        "(Student on each image's mean over draws and seeds); a difference is paired by image. The last column takes the mean of the "
        f"logits over the {given.judges} draws for the answer, as the ensemble does inside with EOT draws of its own: with EOT 1 one "
        "wrong draw ends its search for a sample. Clean, by one draw: "
        f"{clean_share} in the mean, {min(single) / len(test):.1%} to {max(single) / len(test):.1%} over the draws.",
        {"clean": single, "rows": raw},
    )  # fmt: skip


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=16, help="T (default %(default)s)")
    parser.add_argument("--leak", type=float, default=0.9, help="1 leaks nothing (default %(default)s)")
    parser.add_argument("--samples", type=int, default=300, help="test images (default %(default)s)")
    parser.add_argument("--eps", default="0.09", help="radius, linf (default %(default)s)")
    parser.add_argument("--eot", default="1,5,10", help="draws behind a gradient (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of the attack (default %(default)s)")
    parser.add_argument("--iterations", type=int, default=20, help="of PGD and APGD (default %(default)s)")
    parser.add_argument("--judges", type=int, default=20, help="fresh draws that judge (default %(default)s)")
    training_options(parser, channels=0.25)


if __name__ == "__main__":
    main()
