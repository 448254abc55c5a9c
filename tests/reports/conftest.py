"""A builder of synthetic run folders that keep docs/run-format.md: real digits, plausible outcomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trustsnn.canonical import canonical_json, sha256_of
from trustsnn.statistics import proportion

COUNT = 200
STBP = {"name": "stbp", "surrogate": "triangular", "width": 1.0}
GATES = ["clean_accuracy >= 0.95", "lower(robust_accuracy[linf,0.1]) >= 0.6", "robust_accuracy[l2,1] >= 0.5"]


class RunBuilder:
    """Writes a run folder cell by cell, as the runner does."""

    def __init__(self, folder: Path, *, count: int = COUNT, gates: list[str] | None = None, **head: Any) -> None:
        self.folder = folder
        self.ids = [f"s{place:04d}" for place in range(count)]
        self.cells: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.gates = GATES if gates is None else gates
        self.model = {"name": "conv", "hash": sha256_of("conv"), "parameters": 12345, "spec": dict(SPEC), **head.get("model", {})}
        classes = [str(digit) for digit in range(10)]
        self.data = {"name": "digits", "split": "test", "sha256": sha256_of("digits"), "samples_sha256": sha256_of(self.ids)}
        self.data |= {"count": count, "classes": classes, **head.get("data", {})}
        self.config = {"profile": "standard", "seed": 0, "command": ["trustsnn", "audit", "conv", "--data", "digits"]}
        self.config |= head.get("config", {})

    def cell(
        self, attack: str = "none", norm: str | None = None, eps: float = 0.0, what: dict[str, Any] | None = None, **more: Any
    ) -> str:
        """Plan a cell and return its key. `what` goes into the threat."""
        threat: dict[str, Any] = {"attack": attack, "norm": norm, "eps": eps, **(what or {})}
        if attack == "pgd":
            threat |= {"steps": 40, "restarts": 2, "step_size": 0.01, "targeted": False, "loss": "ce", "eot": 1}
        cell = {"model": self.model["hash"], "data": self.data["samples_sha256"], "seed": 0, "twin": None, "threat": threat}
        cell |= {"estimator": None if attack == "none" else STBP, **more}
        key = sha256_of(cell)
        self.cells.append({"key": key, "cell": cell})
        return key

    def done(
        self,
        key: str,
        correct: Any,
        *,
        status: str = "ok",
        labels: Any = None,
        margin: Any = None,
        sizes: Any = None,
        **line: Any,
    ) -> None:
        """Finish a cell with these per-sample outcomes; `sizes` of the perturbations in the cell's norm are its eps if not given."""
        cell = next(entry["cell"] for entry in self.cells if entry["key"] == key)
        correct = np.asarray(correct, dtype=bool)
        labels = np.arange(len(correct)) % 10 if labels is None else np.asarray(labels)
        eps, norm = cell["threat"]["eps"], cell["threat"]["norm"]
        table = pd.DataFrame(
            {
                "cell": key,
                "sample": self.ids[: len(correct)],
                "label": labels.astype(np.int64),
                "prediction": np.where(correct, labels, (labels + 1) % 10).astype(np.int64),
                "correct": correct,
                "margin": np.asarray(np.where(correct, 1.0, -1.0) if margin is None else margin, dtype=np.float32),
                "linf": np.full(len(correct), eps if norm == "linf" else eps / 4, dtype=np.float32),
                "l2": np.full(len(correct), eps if norm == "l2" else eps * 4, dtype=np.float32),
            }
        )
        if sizes is not None:
            table[norm] = np.asarray(sizes, dtype=np.float32)
        (self.folder / "cells").mkdir(parents=True, exist_ok=True)
        table.to_parquet(self.folder / "cells" / f"{key}.parquet", index=False)
        base = {"key": key, "cell": cell, "status": status, "reasons": [], "spike_rates": [], "diagnostics": {}}
        accuracy = proportion(int(correct.sum()), len(correct)) if status != "error" else None
        self.lines.append({**base, "accuracy": accuracy, **line})

    def detected(self, key: str, detection: Any, **line: Any) -> None:
        """Finish a cell of samples outside the distribution."""
        cell = next(entry["cell"] for entry in self.cells if entry["key"] == key)
        base = {"key": key, "cell": cell, "status": "ok", "reasons": [], "spike_rates": [], "diagnostics": {}, "accuracy": None}
        self.lines.append({**base, "detection": detection, **line})

    def pictures(self, key: str, clean: Any, adversarial: Any, label: Any, after: Any, before: Any = None) -> None:
        """Keep pictures of a cell."""
        arrays = {"sample": np.array(self.ids[: len(label)]), "label": label, "prediction": after, "clean": clean}
        arrays |= {"clean_prediction": label if before is None else before, "adversarial": adversarial}
        np.savez(self.folder / "cells" / f"{key}.npz", **arrays)

    def write(self) -> Path:
        """Write run.json and cells.jsonl."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {"trustsnn": "0.1.0", "python": "3.11.7", "platform": "Linux-6.1-x86_64", "machine": "x86_64", "threads": 2}
        environment |= {
            "packages": {"torch": "2.13.0", "numpy": "2.4.1"},
            "git": {"commit": "c75d7d0" + "0" * 33, "dirty": False},
        }
        head = {"format": "trustsnn-run/1", "config": self.config, "model": self.model, "data": self.data}
        head |= {"environment": environment, "gates": self.gates, "cells": self.cells}
        head["identity"] = sha256_of([self.config, self.model, self.data, self.cells, environment["packages"]])
        (self.folder / "run.json").write_text(json.dumps(head, indent=1), encoding="utf-8")
        (self.folder / "cells.jsonl").write_text("".join(canonical_json(line) + "\n" for line in self.lines), encoding="utf-8")
        return self.folder


SPEC = {"domain": "image", "input_shape": [1, 8, 8], "classes": 10, "steps": 4, "encoder": "direct", "readout": "membrane"}
SPEC |= {"stochastic": False, "max_count": None, "reset": "every forward"}
FINDING = {
    "type": "zero-gradient",
    "message": "The gradient of 38 % of the samples is exactly zero, so the attack had nothing to follow.",
    "evidence": {"zero_gradient_fraction": 0.38},
    "threshold": 0.1,
    "source": "Athalye et al. 2018, Obfuscated gradients give a false sense of security",
}


@pytest.fixture
def builder(tmp_path: Path) -> Callable[..., RunBuilder]:
    """Makes RunBuilders in folders of their own."""
    made: list[RunBuilder] = []

    def make(**head: Any) -> RunBuilder:
        made.append(RunBuilder(tmp_path / f"run{len(made)}", **head))
        return made[-1]

    return make


def full_run(folder: Path, *, finding: bool = False, channels: int = 1, seed: int = 0, shift: bool = False, **head: Any) -> Path:
    """A plausible audit of a digits model: 200 samples, clean, FGSM and PGD in linf 0.1/0.2/0.3, PGD in l2 1; if `shift` also
    two corruptions and a source of samples outside the distribution."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images[:COUNT] / 16).astype(np.float32)[:, None], digits.target[:COUNT].astype(np.int64)
    if channels == 2:
        images = np.concatenate([images, np.roll(images, 1, axis=-1)[..., ::-1] * 0.6], axis=1)
    elif channels == 3:
        images = np.concatenate([images, images * 0.6, 1 - images], axis=1)
    draw = np.random.default_rng(seed)
    radius = draw.gamma(2.2, 0.08, COUNT)
    clean_correct = draw.random(COUNT) < 0.975
    run = RunBuilder(folder, **head)
    rates = {"layers.1": 0.124, "layers.3": 0.087, "layers.6": 0.203, "layers.8": 0.051}

    def spikes(factor: float) -> list[dict[str, Any]]:
        return [{"layer": layer, "rate": round(rate * factor, 6)} for layer, rate in rates.items()]

    clean = run.cell()
    attacks = [(run.cell(attack, "linf", eps), attack, eps) for eps in (0.1, 0.2, 0.3) for attack in ("fgsm", "pgd")]
    attacks.append((run.cell("pgd", "l2", 1.0), "pgd", 1.0))
    run.done(clean, clean_correct, labels=labels, spike_rates=spikes(1.0), diagnostics={"zero_gradient_fraction": 0.0})
    for place, (key, attack, eps) in enumerate(attacks):
        reach = eps * (0.12 if eps == 1.0 else 1.0)
        correct = clean_correct & (radius * (1.35 if attack == "fgsm" else 1.0) > reach)
        doubt = {"status": "inconclusive", "reasons": [FINDING]} if finding and place == 5 else {}
        run.done(key, correct, labels=labels, spike_rates=spikes(1 + 1.6 * reach), **doubt)
        noise = np.sign(draw.standard_normal(images[:6].shape)) * (eps if eps < 1 else 0.12) * draw.random(images[:6].shape)
        adversarial = np.clip(images[:6] + noise, 0, 1).astype(np.float32)
        after = np.where(correct[:6], labels[:6], (labels[:6] + 5) % 10)
        run.pictures(
            key, images[:6], adversarial, labels[:6], after, np.where(clean_correct[:6], labels[:6], (labels[:6] + 3) % 10)
        )
    for name in ("gaussian-noise", "background-activity") if shift else ():
        for severity in range(1, 6):
            key = run.cell("corruption", what={"corruption": name, "severity": severity})
            run.done(key, clean_correct & (radius > severity / 30), labels=labels)
    if shift:
        score = {"auroc": 0.91, "low": 0.87, "high": 0.94, "fpr_at_95_tpr": proportion(31, 100), "inside": 100, "outside": 100}
        run.detected(run.cell("ood", what={"source": "noise"}), {"energy": score, "spike-rate/layers.1": score})
    return run.write()


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, shared: read it, do not change it."""
    return full_run(tmp_path_factory.mktemp("full") / "run")


@pytest.fixture(scope="session")
def make_full() -> Callable[..., Path]:
    """The maker of plausible full runs."""
    return full_run


@pytest.fixture(scope="session")
def make_builder() -> type[RunBuilder]:
    """RunBuilder itself, for tests that choose the folder."""
    return RunBuilder
