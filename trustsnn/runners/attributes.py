"""What a model gives away of records and of its training data as a whole: attribute and property inference, and a folder with the figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trustsnn.attacks.leakage.attribute import ATTACKS, Attribute, AttributeInference
from trustsnn.attacks.leakage.property import property_scores, share_of
from trustsnn.attacks.leakage.roc import area
from trustsnn.attacks.leakage.signals import signals
from trustsnn.blocks import frozen, predict
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.files import write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.reports.inference import FORMATS, page
from trustsnn.rng import Draws, stream
from trustsnn.runners.environment import environment
from trustsnn.runners.judged import Judged
from trustsnn.runners.resolve import fit
from trustsnn.runners.shadows import Recipe, train_all
from trustsnn.runners.subject import data_record, model_record
from trustsnn.statistics import proportion, sign_test

Told = Callable[[str], None]


def attributes(
    model: SpikingNetwork, members: Dataset, others: Dataset, population: Dataset, out: Path, places: Sequence[int] | None = None, *,
    seed: int = 0, told: Told = lambda line: None,
) -> Judged:  # fmt: skip
    """Guess each of the features at `places` (all by default), cut at its median in the population, from the rest of the record and the model,
    for members of the training data and others; write attributes.json and attributes.html.

    Raises:
        ConfigError: the data does not fit the model, or a feature that it does not have.
    """
    for data in (members, others, population):
        fit(model, data)
    sides = {name: _records(data) for name, data in (("members", members), ("others", others), ("population", population))}
    shape = members.sample_shape

    def ask(records: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        x = torch.from_numpy(records.astype(np.float32)).view(-1, *shape)
        draws = Draws(seed, "attributes", tuple(map(str, range(len(x)))))
        return signals(model, x, torch.from_numpy(labels), draws).probability

    known, labels = sides.pop("population")
    rows = []
    for place in range(known.shape[1]) if places is None else places:
        inference = AttributeInference(Attribute.halved(known, place), ask, known, labels)
        row: dict[str, Any] = {"feature": place, "border": inference.attribute.border}
        for side, (records, theirs) in sides.items():
            truth = inference.attribute.of(records)
            right = {name: guessed == truth for name, guessed in inference.guesses(records, theirs).items()}
            row[side] = {name: dict(proportion(int(each.sum()), len(each))) for name, each in right.items()}
            gained, lost = int((right["both"] & ~right["imputation"]).sum()), int((right["imputation"] & ~right["both"]).sum())
            row[side]["gain"] = {"gained": gained, "lost": lost, "p": sign_test(gained, lost)}
        rows.append(row)
        told(
            f"feature {place}: imputation {row['members']['imputation']['value']:.1%}, with the model {row['members']['both']['value']:.1%}"
        )
    record = {
        "format": FORMATS["attributes"],
        "model": model_record(model, model.spec, model_hash(model)),
        "members": data_record(members), "others": data_record(others), "population": data_record(population),
        "attacks": ATTACKS, "features": rows, "seed": seed, "environment": environment(),
    }  # fmt: skip
    return _written(record, out, "attributes")


@dataclass(frozen=True, kw_only=True)
class PropertyPlan:
    """Which property, and how many models.

    Args:
        recipe: of all models.
        label: the property: this class has a share of `shares[1]` in the training data, and not of `shares[0]`.
        samples: of each model's training data.
        known, asked: shadow models that the attacker trains, and models that it is measured on; half of each with the property.
        workers: processes that train.
    """

    recipe: Recipe
    label: int
    shares: tuple[float, float] = (0.3, 0.5)
    samples: int = 200
    known: int = 40
    asked: int = 20
    workers: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.shares[0] < self.shares[1] <= 1) or min(self.known, self.asked) < 4:
            raise ConfigError(
                f"Expected two rising shares in [0, 1], and at least 4 models to train and to ask, got {self.shares}, {self.known} and {self.asked}."
            )


def properties(
    pool: Dataset, probes: Dataset, out: Path, plan: PropertyPlan, *, seed: int = 0, told: Told = lambda line: None
) -> Judged:
    """Train models with and without a property of their training data, tell the ones that were put aside apart by what they say of `probes`; write
    properties.json and properties.html. The attacker's models and the others share no sample.

    Raises:
        ConfigError: too few samples for the shares, or a class that is not there.
    """
    if not 0 <= plan.label < len(pool.classes):
        raise ConfigError(f"Expected a class in 0..{len(pool.classes) - 1}, got {plan.label}.")
    halves = stream(seed, "property/halves").random(len(pool)) < 0.5
    answers: dict[bool, NDArray[np.float64]] = {}
    truth: dict[bool, NDArray[np.bool_]] = {}
    x = torch.from_numpy(probes.batch(range(len(probes)))[0])
    for asked, count in ((False, plan.known), (True, plan.asked)):
        side = halves == asked
        inside = np.zeros((count, len(pool)), dtype=bool)
        truth[asked] = np.arange(count) % 2 == 1
        for number, row in enumerate(inside):
            share = plan.shares[number % 2]
            rows = np.flatnonzero(side)
            row[
                rows[share_of(pool.labels[rows] == plan.label, plan.samples, share, stream(seed, f"property/{asked}/{number}"))]
            ] = True
        first = seed + 2_000_000 + 1000 * asked
        models = train_all(plan.recipe, pool, inside, out / "models", seed=first, workers=plan.workers, told=told)
        answers[asked] = np.stack([_answers(each.load(), x, probes, seed) for each in models])
    scores = property_scores(answers[False], truth[False], answers[True])
    right = (scores > 0) == truth[True]
    record = {
        "format": FORMATS["properties"],
        "data": data_record(pool), "probes": data_record(probes),
        "property": {"label": plan.label, "class": pool.classes[plan.label], "shares": list(plan.shares)},
        "recipe": asdict(plan.recipe), "samples": plan.samples, "known": plan.known, "asked": plan.asked,
        "right": dict(proportion(int(right.sum()), len(right))), "auc": area(scores[truth[True]], scores[~truth[True]]),
        "scores": [{"score": float(score), "has": bool(has)} for score, has in zip(scores, truth[True], strict=True)],
        "seed": seed, "environment": environment(),
    }  # fmt: skip
    return _written(record, out, "properties")


def _answers(model: SpikingNetwork, x: torch.Tensor, probes: Dataset, seed: int) -> NDArray[np.float64]:
    with frozen(model):
        logits = predict(model, x, Draws(seed, "property", probes.ids))
    return np.asarray(torch.log_softmax(logits.double(), 1).clamp_min(-20).flatten().numpy())


def _records(data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x, y = data.batch(range(len(data)))
    return x.reshape(len(x), -1).astype(np.float64), y


def _written(record: dict[str, Any], out: Path, name: str) -> Judged:
    write_text(out / f"{name}.html", page(record))
    write_text(out / f"{name}.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return Judged(record, out / f"{name}.html", 0)
