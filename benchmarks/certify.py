"""Certified accuracy on MNIST: smoothing (L2), rate coding (L1), S-IBP and S-CROWN (L-inf), for networks trained plainly and for it.

    python benchmarks/certify.py
    python benchmarks/certify.py --networks mlp --samples 500

Each network is trained here unless it lies under --models: plainly, on interval bounds, under Gaussian noise, and with Poisson coding. The
images go by in chunks; what was computed is kept under --keep, so that a killed run goes on. L-inf tables also say what the quick
snn-autoattack leaves at --eps, and how many of the images certified there it breaks.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import begin, options
from outcomes import Arrays, Outcomes
from report import Report, share

import trustsnn
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset, load
from trustsnn.defenses.certify import S_IBP, GaussianNoise, Rate, Smoothing, Verified, certified_accuracy, certify
from trustsnn.defenses.certify.method import Method
from trustsnn.errors import TrustSNNError
from trustsnn.models import SpikingNetwork, build
from trustsnn.statistics import proportion
from trustsnn.training import Recipe, TrainConfig, train


class Kind(NamedTuple):
    """How a network is trained, with which settings of its own, and by what it is certified."""

    recipe: Recipe | None
    settings: dict[str, Any]
    methods: tuple[Method, ...]


def kinds(given: Namespace) -> dict[str, Kind]:
    """The networks of each architecture."""
    sampled = {"draws": given.draws, "selection": 100}
    smoothing = Smoothing(sigma=given.sigma, **sampled)
    bounds = tuple(
        Verified(method=name, largest=given.largest, rounds=given.rounds, refine=given.refine) for name in ("ibp", "crown")
    )
    noise, interval = GaussianNoise(sigma=given.sigma), S_IBP(eps=given.train_eps, ramp=max(1, given.epochs // 2))
    return {
        "plain": Kind(None, {}, (*bounds, smoothing)),
        "S-IBP": Kind(interval, {"norm": "none"}, bounds),
        "Gaussian noise": Kind(noise, {}, (smoothing,)),
        "Poisson coding": Kind(None, {"encoder": "poisson"}, (Rate(**sampled),)),
    }


def network(name: str, kind: Kind, data: Dataset, given: Namespace) -> SpikingNetwork:
    """The trained network, from its folder if it is there; a training that was killed goes on."""
    name, _, channels = name.partition(":")
    size = {"channels": float(channels)} if channels else {}
    arguments = {"input_shape": data.sample_shape, "classes": len(data.classes), "steps": given.steps, **size, **kind.settings}
    made = [name, arguments, given.epochs, given.train, kind.recipe.describe() if kind.recipe else None]
    folder = given.models / f"certify-{name}-{trustsnn.canonical.sha256_of(made)[:12]}"
    if (folder / "manifest.json").is_file():
        return trustsnn.checkpoint.load_network(folder)
    model = build(name, **arguments)
    config = TrainConfig(epochs=given.epochs)
    train(model, data, config, recipe=kind.recipe, folder=folder / "training",
          on_epoch=lambda row: print(f"  training {folder.name}: {row}", flush=True))  # fmt: skip
    trustsnn.save(model, folder)
    return model


def arrays(model: SpikingNetwork, data: Dataset, method: Method) -> Arrays:
    """Label, class and radius of each image, -1 and NaN for none."""
    entries = certify(model, data, method)["samples"]
    return {
        "label": np.array([e["label"] for e in entries]),
        "prediction": np.array([-1 if e["prediction"] is None else e["prediction"] for e in entries]),
        "radius": np.array([np.nan if e["radius"] is None else e["radius"] for e in entries]),
    }


def attacked(model: SpikingNetwork, data: Dataset, attack: SNNAutoAttack) -> Arrays:
    """Who is still right after the attack."""
    x, y = (torch.from_numpy(each) for each in data.batch(range(len(data))))
    found = attack(model, x, y, list(data.ids))
    with frozen(model):
        return {"correct": (predict(model, found).argmax(1) == y).numpy()}


def main() -> None:
    """One table for each norm, and one of the attack."""
    parser = options(__doc__.splitlines()[0])
    _arguments(parser)
    given = begin(parser)
    try:
        train_set, test = (load("mnist", split) for split in ("train", "test"))
    except TrustSNNError as error:
        raise SystemExit(f"No MNIST: {error}") from error
    train_set, test = train_set.take(given.train), test.take(given.samples)
    outcomes = Outcomes(given.keep)
    report = Report(f"Certified accuracy on MNIST, T = {given.steps}, {len(test)} images", given)
    entries: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    left: dict[tuple[str, str], Any] = {}
    for name in given.networks.split(","):
        for label, kind in kinds(given).items():
            model = network(name, kind, train_set, given)
            digest = model_hash(model)
            for method in kind.methods:
                found = _whole(outcomes, test, given, {"model": digest, "method": [method.name, method.describe()]},
                               partial(arrays, model, method=method))  # fmt: skip
                entries[name, label, method.norm, method.name] = _entries(found)
                print(f"  {name}, {label}, {method.name}: done", flush=True)
            if kind.methods[0].norm == "linf":
                attack = SNNAutoAttack(eps=given.eps, profile="quick")
                decides = {"model": digest, "threat": attack.describe(), "seed": attack.seed}
                left[name, label] = _whole(outcomes, test, given, decides, partial(attacked, model, attack=attack))["correct"]
    for norm, title in (("linf", "L-inf"), ("l2", "L2"), ("l1", "L1")):
        _table(report, title, norm, {key: rows for key, rows in entries.items() if key[2] == norm}, given)
    _attack_table(report, entries, left, given.eps)


def _whole(outcomes: Outcomes, data: Dataset, given: Namespace, decides: dict[str, Any], compute: Any) -> Arrays:
    parts = []
    for start in range(0, len(data), given.chunk):
        rows = range(start, min(start + given.chunk, len(data)))
        part = data.select(rows)
        what = {**decides, "data": part.samples_sha256, "threads": given.threads}
        parts.append(outcomes.get(what, lambda part=part: compute(data=part)))
    return {name: np.concatenate([part[name] for part in parts]) for name, kept in parts[0].items() if kept.ndim}


def _entries(found: Arrays) -> list[dict[str, Any]]:
    rows = zip(found["label"].tolist(), found["prediction"].tolist(), found["radius"].tolist(), strict=True)
    return [{"label": y, "prediction": p if p >= 0 else None, "radius": r if np.isfinite(r) else None} for y, p, r in rows]


def _table(report: Report, title: str, norm: str, found: dict[Any, list[dict[str, Any]]], given: Namespace) -> None:
    radii = [float(each) for each in getattr(given, norm).split(",")]
    rows, raw = [], {}
    for (name, label, _, method), entries in found.items():
        figures = [certified_accuracy(entries, norm, radius) for radius in radii]
        right = proportion(sum(e["prediction"] == e["label"] for e in entries), len(entries))
        rows.append([name, label, method, share(right), *map(share, figures)])
        raw[f"{name}, {label}, {method}"] = [e["radius"] if e["prediction"] == e["label"] else None for e in entries]
    columns = ["network", "trained", "method", "correct", *(f"{radius:g}" for radius in radii)]
    report.table(
        f"Certified accuracy at {title} radii",
        columns,
        rows,
        f"95 % intervals: Wilson. One that abstains is not correct.{_reach(norm, given)}",
        raw,
    )


def _reach(norm: str, given: Namespace) -> str:
    """Up to where a certificate from draws can reach at all."""
    if norm != "l2":
        return ""
    most = given.sigma * NormalDist().inv_cdf(Smoothing(sigma=given.sigma).alpha ** (1 / given.draws))
    return f" With {given.draws:,} draws and sigma {given.sigma:g} no radius is larger than {most:.2f}."


def _attack_table(report: Report, entries: dict[Any, list[dict[str, Any]]], left: dict[tuple[str, str], Any], eps: float) -> None:
    rows = []
    for (name, label), correct in left.items():
        for method in ("ibp", "crown"):
            certified = np.array(
                [(e["radius"] or 0) >= eps and e["prediction"] == e["label"] for e in entries[name, label, "linf", method]]
            )
            robust = proportion(int(correct.sum()), len(correct))
            rows.append([name, label, method, share(proportion(int(certified.sum()), len(certified))), share(robust),
                         str(int((certified & ~correct).sum()))])  # fmt: skip
    columns = ["network", "trained", "method", "certified", "left by the attack", "certified and broken"]
    report.table(
        f"Certified and attacked at L-inf {eps:g}: snn-autoattack, quick", columns, rows, "95 % intervals: Wilson.", rows
    )


def _arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--networks", default="mlp,conv:0.25", help="NAME or NAME:CHANNELS with commas (default %(default)s)")
    add("--steps", type=int, default=4, help="time steps (default %(default)s)")
    add("--epochs", type=int, default=12, help="of each training (default %(default)s)")
    add("--train", type=int, default=20000, help="training images (default %(default)s)")
    add("--samples", type=int, default=100, help="test images (default %(default)s)")
    add("--chunk", type=int, default=20, help="images that are certified before their outcome is kept (default %(default)s)")
    add("--sigma", type=float, default=0.25, help="of smoothing and of the training for it (default %(default)s)")
    add("--draws", type=int, default=1000, help="of smoothing and rate, an image (default %(default)s)")
    add("--train-eps", type=float, default=0.1, help="of training on interval bounds (default %(default)s)")
    add("--largest", type=float, default=0.16, help="L-inf radius that the bisection begins at (default %(default)s)")
    add("--rounds", type=int, default=4, help="of bisection (default %(default)s)")
    add(
        "--refine",
        type=int,
        default=256,
        help="S-CROWN: neurons of a layer with linear bounds on its membranes (default %(default)s)",
    )
    add("--eps", type=float, default=0.05, help="of the attack, L-inf (default %(default)s)")
    add("--linf", default="0.01,0.02,0.05,0.1", help="radii of the table (default %(default)s)")
    add("--l2", default="0.1,0.25,0.5,0.75", help="(default %(default)s)")
    add("--l1", default="0.025,0.05,0.1,0.15", help="(default %(default)s)")
    add("--models", type=Path, default=Path("models"), help="where networks lie (default %(default)s)")
    add("--keep", type=Path, default=Path("runs/hardening/certify"), help="(default %(default)s)")


if __name__ == "__main__":
    main()
