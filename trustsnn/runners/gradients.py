"""Gradient inversion of a model's updates: attacks against defences, and a folder with figures and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustsnn.attacks.leakage.analytic import analytic, first_layer
from trustsnn.attacks.leakage.gradient_inversion import METHODS, GradientInversion
from trustsnn.attacks.leakage.similarity import EXACT, matched, psnr, spread, ssim
from trustsnn.attacks.leakage.twice import TwiceDifferentiable
from trustsnn.attacks.leakage.update_defences import Defence
from trustsnn.attacks.leakage.updates import Reconstruction, Update, read_update, simulate, write_update
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.files import write_arrays, write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.reports.gradients import FORMAT, page
from trustsnn.rng import Draws
from trustsnn.runners.environment import environment
from trustsnn.runners.judged import Judged
from trustsnn.runners.resolve import fit
from trustsnn.runners.subject import data_record, model_record
from trustsnn.statistics import proportion

ATTACKS = ("analytic", *METHODS)
NONE = Defence("none")
Attack = Callable[[SpikingNetwork, Update], Reconstruction]
Pictures = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done to updates.

    Args:
        attacks: of `ATTACKS`; what a search takes is in `search`, but for its method.
        defences: each tried by itself; "none" always comes first.
        batch: samples of an update.
        threshold: PSNR from which an image counts as recovered, dB.
        keep: write the undefended updates, which `saved_update` reads.
    """

    attacks: tuple[str, ...] = ("analytic", "idlg", "inverting")
    defences: tuple[Defence, ...] = (NONE,)
    search: GradientInversion = field(default_factory=GradientInversion)
    batch: int = 1
    threshold: float = 20.0
    keep: bool = False

    def __post_init__(self) -> None:
        unknown = [each for each in self.attacks if each not in ATTACKS]
        if unknown or not self.attacks:
            raise ConfigError(f"Expected attacks of {', '.join(ATTACKS)}, got {', '.join(unknown) or 'none'}.")
        if not (self.batch >= 1 and 0 < self.threshold < EXACT):
            raise ConfigError(
                f"Expected a batch of at least 1 and a threshold above 0 and below {EXACT:g} dB, got {self.batch} and {self.threshold}."
            )
        if self.batch > 1 and "analytic" in self.attacks:
            raise ConfigError(
                f"The analytic attack takes updates of one sample, got batches of {self.batch}. Leave it out of --attack."
            )
        object.__setattr__(self, "defences", tuple(dict.fromkeys((NONE, *self.defences))))

    def attack(self, name: str) -> Attack:
        """The attack of that name."""
        return analytic if name == "analytic" else replace(self.search, method=name)

    def settings(self, name: str) -> dict[str, Any]:
        """Its settings as plain values."""
        return {"attack": name} if name == "analytic" else replace(self.search, method=name).describe()


def gradient_leakage(
    model: SpikingNetwork, data: Dataset, out: Path, plan: Plan | None = None, *, seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> Judged:  # fmt: skip
    """Simulate the updates of clients that hold the samples of `data`, `plan.batch` each, put them through each defence and attack them;
    write gradients.json, gradients.html and images.npz.

    Raises:
        ConfigError: the model does not fit the data or an attack, or the samples do not make whole batches.
    """
    plan = plan or Plan()
    spec = fit(model, data)
    if len(data) % plan.batch:
        raise ConfigError(f"Expected a number of samples that batches of {plan.batch} divide, got {len(data)}.")
    _check(model, plan)
    x, y = (torch.from_numpy(each.copy()) for each in data.batch(np.arange(len(data))))
    batches = [range(start, start + plan.batch) for start in range(0, len(data), plan.batch)]
    cells: list[dict[str, Any]] = []
    pictures: Pictures = {"original": x.numpy(), "label": y.numpy()}
    for defence in plan.defences:
        client = defence.model(model)
        updates = []
        for rows in batches:
            ids = tuple(data.ids[row] for row in rows)
            taken = slice(rows.start, rows.stop)
            bare = simulate(client, x[taken], y[taken], statistics=plan.search.statistics, draws=Draws(seed, "update", ids))
            if plan.keep and defence == NONE:
                write_update(bare, out / "updates" / f"{rows.start // plan.batch}.safetensors")
            updates.append(defence(bare, seed, "+".join(ids)))
        for name in plan.attacks:
            found = _against(partial(plan.attack(name), client), updates, x, y, plan.batch)
            pictures[f"{len(cells)}"] = found.images.numpy()
            cells.append({"attack": name, "defence": defence.line, **found.figures})
            told(f"{name}, {defence.line}: PSNR {found.figures['psnr']['value']:.1f} dB (median of {len(data)})")
    _judge(cells, plan.threshold)
    record = {
        **_head(model, model_record(model, spec, model_hash(model)), plan, seed),
        "data": data_record(data),
        "batch": plan.batch,
        "threshold": plan.threshold,
        "cells": cells,
    }
    return _written(record, pictures, out)


def saved_update(
    model: SpikingNetwork, path: Path, out: Path, plan: Plan | None = None, *, seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> Judged:  # fmt: skip
    """Attack the update in a file. Nobody knows the originals, so that there are pictures and no figures of likeness."""
    plan = plan or Plan()
    _check(model, plan)
    update = read_update(path, model)
    cells: list[dict[str, Any]] = []
    pictures: Pictures = {}
    for name in plan.attacks:
        found = plan.attack(name)(model, update)
        pictures[f"{len(cells)}"] = found.images.numpy()
        cells.append(
            {"attack": name, "defence": None, "labels": found.labels.tolist(), "blank": found.blank, "objective": found.objective}
        )
        told(f"{name}: labels {', '.join(map(str, found.labels.tolist()))}")
    record = {
        **_head(model, model_record(model, model.spec, model_hash(model)), plan, seed),
        "data": None,
        "batch": update.samples,
        "threshold": plan.threshold,
        "cells": cells,
    }
    return _written(record, pictures, out)


@dataclass(frozen=True)
class _Found:
    images: Tensor
    figures: dict[str, Any]


def _against(attack: Callable[[Update], Reconstruction], updates: Sequence[Update], x: Tensor, y: Tensor, batch: int) -> _Found:
    """Reconstructions in the order of the originals, and how near they come."""
    images, labels, blank = torch.empty_like(x), torch.empty_like(y), 0
    for place, update in enumerate(updates):
        rows = slice(place * batch, (place + 1) * batch)
        found = attack(update)
        order = torch.from_numpy(matched(found.images, x[rows]))
        images[rows], labels[rows] = found.images[order], found.labels[order]
        blank += found.blank
    decibels, likeness = psnr(images, x), ssim(images, x)
    figures = {
        "psnr": spread(decibels, 0.0, EXACT),
        "ssim": spread(likeness, -1.0, 1.0),
        "labels": proportion(int((labels == y).sum()), len(y)),
        "exact": int((decibels >= EXACT).sum()),
        "blank": blank,
        "each": {"psnr": decibels.tolist(), "ssim": likeness.tolist(), "label": labels.tolist()},
    }
    return _Found(images, figures)


def _judge(cells: list[dict[str, Any]], threshold: float) -> None:
    """Say of each cell whether the attack gets through: by the interval of the median, against the threshold."""
    works: dict[str, bool] = {}
    for cell in cells:
        figure = cell["psnr"]
        reached = "recovers" if figure["low"] >= threshold else "fails" if figure["high"] < threshold else "undecided"
        if cell["defence"] == NONE.line:
            works[cell["attack"]] = reached == "recovers"
        elif reached == "fails":
            reached = "stopped" if works[cell["attack"]] else "fails"
        cell["outcome"] = reached


def _check(model: SpikingNetwork, plan: Plan) -> None:
    """Refuse what an attack cannot take, before anything is computed."""
    if not isinstance(model, SpikingNetwork):
        raise ConfigError(f"Expected a bundled network, got {type(model).__name__}.")
    if "analytic" in plan.attacks:
        first_layer(model)
    if set(plan.attacks) - {"analytic"}:
        TwiceDifferentiable(model, surrogate=plan.search.surrogate, statistics=plan.search.statistics)


def _head(model: SpikingNetwork, told_of: Mapping[str, Any], plan: Plan, seed: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": dict(told_of),
        "seed": seed,
        "statistics": plan.search.statistics,
        "attacks": [plan.settings(name) for name in plan.attacks],
        "defences": [each.line for each in plan.defences],
        "environment": environment(),
    }


def _written(record: dict[str, Any], pictures: Pictures, out: Path) -> Judged:
    write_arrays(out / "images.npz", pictures)
    write_text(out / "gradients.html", page(record, pictures))
    write_text(out / "gradients.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return Judged(record, out / "gradients.html", 0)
