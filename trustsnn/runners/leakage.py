"""Class leakage of models side by side: attack, score, and a folder with the figures and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from trustsnn.attacks.leakage import ClassAttack, ClassRepresentation, Judge
from trustsnn.checkpoint import model_hash
from trustsnn.conversion.segments import rectified
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.files import write_arrays, write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.reports.leakage import FORMAT, page
from trustsnn.runners.environment import environment
from trustsnn.runners.resolve import fit
from trustsnn.runners.subject import data_record
from trustsnn.statistics import proportion


def class_leakage(
    models: Mapping[str, SpikingNetwork],
    judge: SpikingNetwork,
    data: Dataset,
    out: Path,
    attacks: Sequence[ClassAttack] = (ClassRepresentation(through="ann"), ClassRepresentation(through="snn")),
    *,
    images: int = 10,
    seed: int = 0,
    told: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Attack each model by each of `attacks`, `images` images a class, and write `leakage.json`, `leakage.html` and `images.npz`. A
    network without spikes is attacked through "ann" alone.

    Args:
        models: by the names that the report has for them.
        judge: see `Judge`; no model of the same architecture and seed is judged by it, for they were one network at the start.
        data: real samples for the judge; no attack reads them.
        told: of one line an attack.

    Returns:
        The content of leakage.json; docs/private-conversion.md describes it.

    Raises:
        ConfigError: a model is not independent of the judge or does not fit the data, or there is no image to make.
    """
    if images < 1 or not models or not attacks:
        raise ConfigError(
            f"Expected a model, an attack and at least 1 image a class, got {len(models)}, {len(attacks)} and {images}."
        )
    for name, model in models.items():
        fit(model, data)
        if _origin(model) == _origin(judge):
            raise ConfigError(
                f"Expected a judge of another architecture or seed than {name}, got {_origin(judge)} for both. Train one with: trustsnn "
                "train ann --seed 1 ..."
            )
    judged = Judge(judge, data, seed)
    classes = [each for each in range(len(data.classes)) for _ in range(images)]
    rows: list[dict[str, Any]] = []
    kept: dict[tuple[int, int], NDArray[Any]] = {}
    for place, (name, model) in enumerate(models.items()):
        done = []
        for way, attack in enumerate(each for each in attacks if each.route == "ann" or not rectified(model)):
            made = attack.run(model, classes)
            score = judged(made.images, classes)
            kept[place, way] = made.images.numpy()
            zero = proportion(int(made.zero_gradient.sum()), len(classes))
            told_of = {"settings": attack.describe(), "seed": attack.seed, "classes": classes, "zero_gradient": zero}
            done.append({**told_of, **asdict(score), "chance": list(score.chance)})
            if told is not None:
                told(
                    f"{name}, through {attack.route}: top-1 {score.top1['value']:.1%} of {len(classes)} (95 % interval "
                    f"{score.top1['low']:.1%} to {score.top1['high']:.1%}), distance {score.distance['value']:.2f}"
                )
        rows.append({"name": name, "hash": model_hash(model), "spec": model.spec.to_dict(), "attacks": done})
    record: dict[str, Any] = {
        "format": FORMAT,
        "data": data_record(data),
        "judge": {"name": "-".join(map(str, _origin(judge))), "hash": model_hash(judge), "accuracy": judged.accuracy},
        "images": images,
        "seed": seed,
        "chance": rows[0]["attacks"][0]["chance"],
        "any_zero": any(attack["zero_gradient"]["successes"] for row in rows for attack in row["attacks"]),
        "environment": environment(),
        "models": rows,
    }
    write_arrays(out / "images.npz", {f"{place}-{way}": each for (place, way), each in kept.items()})
    write_text(out / "leakage.html", page(record, kept))
    write_text(out / "leakage.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return record


def _origin(model: SpikingNetwork) -> tuple[str, int]:
    """Architecture and seed."""
    return str(model.architecture["name"]), int(model.architecture.get("arguments", {}).get("seed", 0))
