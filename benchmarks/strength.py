"""Who breaks most: snn-autoattack, each of its estimators alone, and the attacks of torchattacks, on the same images.

    python benchmarks/strength.py --data mnist
    python benchmarks/strength.py --data cifar10
    python benchmarks/strength.py --data mnist --norm l2

Every attack meets the same network on trustsnn's kernels, torchattacks through `trustsnn.attacks.adapter`; what it returns is
projected to the ball and judged by the same forward pass. The images go by in chunks, each attacked by everyone in turn. Who fell to
whom is kept in the file --keep, from which a killed run goes on; --minutes ends it early. With --settle the full ensemble meets all
of the images first, and another attack meets no further chunk once it has left more images standing than the ensemble left of all:
it cannot come out below. Time is processor time. "The ensemble in that time" is the full ensemble on the images that the attack met,
cut at that time.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import begin, images, options
from model import RECIPES, trained
from numpy.typing import NDArray
from outcomes import Arrays, Lines
from report import Report, share_of
from scipy.stats import binomtest
from torch import Tensor, nn

from trustsnn.attacks import APGD, PGD, Attack, Square
from trustsnn.attacks.adapter import torch_attack
from trustsnn.attacks.autoattack import MEMBERS, EnsembleResult, SNNAutoAttack
from trustsnn.attacks.estimators import estimator
from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import model_hash
from trustsnn.runners.config import parse_eps

EPS = {("mnist", "linf"): "0.07,0.1,0.15", ("cifar10", "linf"): "2/255,4/255,8/255"}
EPS |= {("mnist", "l2"): "1,1.5,2", ("cifar10", "l2"): "0.05,0.1,0.2"}
LAST = "snn-autoattack, full"
AGAIN, STARTS = ("own", "ASSG"), 10  # single estimators that also get about the time of the ensemble
LONG = "ASSG"  # and the one that breaks most, which also gets
LONGER = (10, 16)  # so many times the steps in one run: with 16 about all of the ensemble's time
KEPT = Path("docs/results/data/attacks/outcomes")
Correct = NDArray[np.bool_]


def peers(eps: float, norm: str, wanted: set[str]) -> dict[str, Attack]:
    """torchattacks' attacks, each as strong as its papers run it."""
    pgd = "PGD" if norm == "linf" else "PGDL2"
    step = {"alpha": 2.5 * eps / 100}
    settings: dict[str, dict[str, Any]] = {
        pgd: {"steps": 100, **step},
        "APGD": {"steps": 100},
        "Square": {"n_queries": 5000},
        "CW": {"c": 1, "steps": 100, "lr": 0.01},
        "DeepFool": {"steps": 50},
        "AutoAttack": {},
    }
    found: dict[str, Attack] = {}
    for name, each in settings.items():
        method = torch_attack(f"torchattacks/{name}")
        if name in wanted and norm in method.norms:
            found[f"torchattacks/{name}{'-100' if name == pgd else ''}"] = method(eps=eps, norm=norm, settings=each, batched=True)
    return found


def ours(eps: float, norm: str, steps: int, singles: bool) -> dict[str, Attack]:
    """The same as torchattacks' PGD and Square, APGD through each estimator of the full ensemble, and the ensemble's profiles."""
    found: dict[str, Attack] = {
        f"PGD-{steps}": PGD(eps=eps, norm=norm, steps=steps),
        "Square": Square(eps=eps, norm=norm, queries=5000),
    }
    through = {
        m.label.partition(" through ")[2]: m.through
        for m in MEMBERS["full"]
        if m.label.startswith("APGD-CE-") and m.kind == "white-box"
    }
    for label, chosen in through.items() if singles else ():
        found[f"APGD-{steps} through {label}"] = APGD(
            eps=eps, norm=norm, steps=steps, estimator=estimator(**chosen) if chosen else None
        )
        if label in AGAIN:
            found[f"APGD-{steps} through {label}, {STARTS} starts"] = APGD(
                eps=eps, norm=norm, steps=steps, restarts=STARTS, estimator=estimator(**chosen) if chosen else None
            )
        for times in LONGER if label == LONG else ():
            longer = APGD(eps=eps, norm=norm, steps=times * steps, estimator=estimator(**chosen))
            found[f"APGD-{longer.steps} through {label}"] = longer
    return found | {f"snn-autoattack, {name}": SNNAutoAttack(eps=eps, norm=norm, profile=name) for name in MEMBERS}


def attacked(model: nn.Module, attack: Attack, x: Tensor, y: Tensor, ids: list[str]) -> Arrays:
    """Who is still right [B], the processor seconds, and of an ensemble when each sample fell (infinity where it did not)."""
    begun = time.process_time()
    result = attack.run(model, x, y, ids)
    seconds = time.process_time() - begun
    with frozen(model):
        correct = (predict(model, result.adversarial).argmax(1) == y).numpy()
    found = {"correct": correct, "processor": np.array(seconds)}
    if isinstance(result, EnsembleResult) and result.fell is not None:
        found["fell"] = result.fell.numpy()
    return found


def main() -> None:
    """One table for each eps."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    model = trained(given.model or RECIPES[given.data].folder)
    x, y = images(given.data, "test", given.samples)
    outcomes = Lines(given.keep or KEPT / f"{given.data}-{given.norm}.jsonl")
    digest = model_hash(model)
    ends = time.monotonic() + 60 * given.minutes
    share = model.architecture["arguments"].get("channels", 1)
    size = "" if share == 1 else f", {share:g} of its channels,"
    report = Report(
        f"Who breaks most: {model.architecture['name']}{size} on {given.data}, T = {model.spec.steps}, {given.norm}", given
    )
    with frozen(model):
        clean = (predict(model, x).argmax(1) == y).numpy()
    for text in (given.eps or EPS[given.data, given.norm]).split(","):
        eps = parse_eps(text)
        who = {**peers(eps, given.norm, set(given.peers.split(","))), **ours(eps, given.norm, given.steps, not given.no_singles)}
        kept: dict[str, list[Arrays]] = {name: [] for name in who}
        chunks = range(0, len(x), given.chunk)
        turns = [(start, name) for start in chunks for name in who]
        if given.settle:
            turns = [(start, LAST) for start in chunks] + [turn for turn in turns if turn[1] != LAST]
        for start, name in turns:
            part, labels = x[start : start + given.chunk], y[start : start + given.chunk]
            decides = _decides(digest, given, start, len(part), who[name])
            late = time.monotonic() > ends and not outcomes.has(decides)
            settled = given.settle and name != LAST and _left(kept[name]) > _left(kept[LAST])
            if late or settled or len(kept[name]) < start // given.chunk:
                continue
            ids = [f"{given.data}-{row}" for row in range(start, start + len(part))]
            found = outcomes.get(decides, partial(attacked, model, who[name], part, labels, ids))
            kept[name].append(found)
            print(f"  eps {text}, images {start} to {start + len(part) - 1}: {name}: {_left([found])} right, "
                  f"{float(found['processor']):.0f} s", flush=True)  # fmt: skip
        _table(report, f"eps {text}", kept, clean, given.settle)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", choices=list(RECIPES), default="mnist", help="and with it the network (default %(default)s)")
    parser.add_argument("--model", type=Path, help="take this checkpoint folder")
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf", help="(default %(default)s)")
    parser.add_argument("--eps", help="radii with commas (default: three for each data set and norm)")
    parser.add_argument("--samples", type=int, default=1000, help="test images (default %(default)s)")
    parser.add_argument("--chunk", type=int, default=250, help="images that are handed to an attack (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of APGD through one estimator (default %(default)s)")
    parser.add_argument("--no-singles", action="store_true", help="leave out APGD through one estimator")
    names = "PGD,PGDL2,APGD,Square,CW,DeepFool,AutoAttack"
    parser.add_argument("--peers", default=names, help="attacks of torchattacks (default %(default)s)")
    parser.add_argument(
        "--settle", action="store_true", help="attack no more images once that cannot come out below the ensemble"
    )
    parser.add_argument("--minutes", type=float, default=np.inf, help="start nothing new after these")
    parser.add_argument("--keep", type=Path, help=f"a file of JSON lines (default {KEPT}/DATA-NORM.jsonl)")


def _decides(digest: str, given: Namespace, start: int, count: int, attack: Attack) -> dict[str, Any]:
    through = attack.estimator.describe() if attack.estimator is not None else None
    return {
        "model": digest, "data": [given.data, "test", given.samples, start, count], "threat": attack.describe(),
        "estimator": through, "seed": attack.seed, "threads": given.threads,
    }  # fmt: skip


def _left(parts: list[Arrays]) -> int:
    return sum(int(arrays["correct"].sum()) for arrays in parts)


def _table(report: Report, title: str, kept: dict[str, list[Arrays]], clean: Correct, settled: bool) -> None:
    """One row an attack, with what the full ensemble had broken in the same time of the same images."""
    rows = []
    for name, parts in kept.items():
        last = kept[LAST][: len(parts)]
        parts = parts[: len(last)]
        if not parts:
            continue
        correct = np.concatenate([arrays["correct"] for arrays in parts])
        worst = np.concatenate([arrays["correct"] for arrays in last])
        cut = np.concatenate([ens["fell"] > arrays["processor"] for ens, arrays in zip(last, parts, strict=True)])
        alone = int((worst & ~correct).sum()), int((correct & ~worst).sum())
        rows.append([
            name,
            str(len(correct)),
            share_of(int(correct.sum()), len(correct)),
            f"{sum(float(arrays['processor']) for arrays in parts):.0f} s",
            "" if name == LAST else f"{cut.mean():.1%}",
            "" if name == LAST else f"{alone[0]}, {alone[1]}" + _chance(*alone),
        ])  # fmt: skip
    columns = ["attack", "images", "robust (95 % interval)", "time", "the ensemble in that time",
               f"broken here only, by {LAST} only"]  # fmt: skip
    note = f"Without an attack: {share_of(int(clean.sum()), len(clean))}. Exact McNemar test."
    if settled:
        met, most = sum(len(arrays["correct"]) for arrays in kept[LAST]), _left(kept[LAST])
        note += f" An attack met no more images once it had left more standing than the full ensemble left of all {met}."
        cut_off = [name for name, parts in kept.items() if len(parts) < len(kept[LAST]) and _left(parts) <= most]
        note += f" Ended for time before that: {', '.join(cut_off)}." if cut_off else ""
    report.table(title, columns, rows, note, {name: [int(a["correct"].sum()) for a in parts] for name, parts in kept.items()})


def _chance(one: int, other: int) -> str:
    return f" (p = {binomtest(one, one + other).pvalue:.2g})" if one + other else ""


if __name__ == "__main__":
    main()
