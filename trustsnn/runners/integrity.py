"""The integrity of a model: bit flips, faults and tampering, and a folder with the figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from trustsnn.attacks.integrity import FAULTS, BitFlipSearch, fault_curve, parameter_sweep, random_flips
from trustsnn.attacks.integrity.bands import SHARES, Amount, numbers
from trustsnn.attacks.integrity.faults import sites
from trustsnn.attacks.integrity.tampering import FACTORS, PARAMETERS
from trustsnn.attacks.twin import ann_twin
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.files import write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.reports.integrity import FORMAT, page
from trustsnn.runners.environment import environment
from trustsnn.runners.judged import Judged
from trustsnn.runners.resolve import fit
from trustsnn.runners.subject import data_record, model_record
from trustsnn.training import accuracy


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do to a model.

    Args:
        search: for bits; None for none.
        twin: search the ANN twin too, as a baseline.
        faults: kinds, of `FAULTS`; counts: numbers of faults of each, or as floats shares of what there is; per_layer: the same for faults in
            a layer of its own, 0 for none.
        seeds: draws of random faults and flips.
        tampering: of thresholds and leaks, by `factors`.
        fail_under: the gate: flips that the model has to bear.
    """

    search: BitFlipSearch | None = field(default_factory=BitFlipSearch)
    twin: bool = True
    faults: tuple[str, ...] = tuple(FAULTS)
    counts: tuple[Amount, ...] = SHARES
    per_layer: Amount = 0.1
    seeds: int = 5
    tampering: bool = True
    factors: tuple[float, ...] = FACTORS
    fail_under: int | None = None

    def __post_init__(self) -> None:
        if self.fail_under is not None and (self.search is None or not 1 <= self.fail_under <= self.search.limit):
            raise ConfigError(
                f"A gate of at least {self.fail_under} flips needs a search of as many, got a limit of "
                f"{self.search.limit if self.search is not None else 0}."
            )
        unknown = [kind for kind in self.faults if kind not in FAULTS]
        if unknown:
            raise ConfigError(f"Unknown fault {unknown[0]!r}. Known: {', '.join(FAULTS)}.")
        numbers((*self.counts, self.per_layer), 1)
        if self.seeds < 1:
            raise ConfigError(f"Expected at least 1 seed of faults, got {self.seeds}.")


def integrity(
    model: nn.Module, known: Dataset, held_out: Dataset, out: Path, plan: Plan | None = None, *, seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> Judged:  # fmt: skip
    """Run a plan on `model` and write integrity.json and integrity.html. The search reads `known`; every figure is of `held_out`.

    Raises:
        ConfigError: the model does not fit the data, or what the plan asks for.
    """
    plan = plan or Plan()
    spec = fit(model, held_out)
    fit(model, known)
    if not isinstance(model, SpikingNetwork) and (plan.faults or plan.tampering or plan.twin):
        raise ConfigError(
            f"Faults, tampering and the ANN twin are for networks of trustsnn's layers, got {type(model).__name__}. Of another module only "
            "bits are searched: leave out the rest."
        )
    record: dict[str, Any] = {
        "format": FORMAT,
        "model": model_record(model, spec, model_hash(model)),
        "data": data_record(held_out),
        "known": data_record(known),
        "seed": seed,
        "clean": dict(accuracy(model, held_out, seed=seed)),
        "bit_flips": _bit_flips(model, known, held_out, plan, told),
        "faults": [],
        "by_layer": [],
        "tampering": [],
        "environment": environment(),
    }
    if isinstance(model, SpikingNetwork):
        for kind in plan.faults:
            told(f"faults: {kind}")
            bands = fault_curve(model, held_out, kind, plan.counts, seeds=plan.seeds)
            where = sites(model, held_out, kind)
            entry = {"kind": kind, "description": FAULTS[kind].description, "sites": sum(where.values())}
            record["faults"].append({**entry, "bands": [band.to_dict() for band in bands]})
            record["by_layer"] += _by_layer(model, held_out, kind, where, plan)
        for parameter in PARAMETERS if plan.tampering else ():
            told(f"tampering: {parameter}")
            record["tampering"] += parameter_sweep(model, held_out, parameter, plan.factors, seed=seed)
    record["gate"] = _gate(record, plan.fail_under)
    failed = record["gate"] is not None and not record["gate"]["holds"]
    write_text(out / "integrity.html", page(record))
    write_text(out / "integrity.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return Judged(record, out / "integrity.html", int(failed))


def _bit_flips(
    model: nn.Module, known: Dataset, held_out: Dataset, plan: Plan, told: Callable[[str], None]
) -> dict[str, Any] | None:
    if plan.search is None:
        return None
    search = plan.search
    subjects = {"model": model, **({"twin": ann_twin(model)} if plan.twin else {})}
    found: dict[str, Any] = {"bits": search.bits, "limit": search.limit, "twin": None}
    for name, subject in subjects.items():
        told(f"bit flips: {name}")
        chosen = search.chosen(subject)
        result = search.run(
            subject, known, held_out, on_flip=lambda count, left: told(f"  {count} flips: {left['value']:.1%} correct")
        )
        estimators = [None if each is None else each.describe() for each in chosen]
        found[name] = {**result.to_dict(), "estimators": estimators}
    most = max(len(found[name]["flips"]) for name in subjects)
    found["random"] = [band.to_dict() for band in random_flips(model, held_out, most, bits=search.bits, seeds=plan.seeds)]
    return found


def _gate(record: dict[str, Any], bound: int | None) -> dict[str, Any] | None:
    if bound is None:
        return None
    found = record["bit_flips"]["model"]
    reached = found["to_chance"]
    return {"bound": bound, "value": reached, "searched": len(found["flips"]), "holds": reached is None or reached >= bound}


def _by_layer(model: SpikingNetwork, data: Dataset, kind: str, where: dict[str, int], plan: Plan) -> list[dict[str, Any]]:
    if not plan.per_layer:
        return []
    rows = []
    for layer, size in where.items():
        (band,) = fault_curve(model, data, kind, (plan.per_layer,), seeds=plan.seeds, layer=layer)
        rows.append({"kind": kind, "layer": layer, "sites": size, **band.to_dict()})
    return rows


def kinds(wanted: Sequence[str]) -> tuple[str, ...]:
    """Kinds of faults by name; "neuron" and "synapse" stand for all of theirs, "none" for none."""
    found: list[str] = []
    for name in wanted:
        group = [kind for kind in FAULTS if name in ("neuron", "synapse") and kind.startswith(name)]
        found += group or ([] if name == "none" else [name])
    return tuple(dict.fromkeys(found))


def amounts(text: str) -> tuple[Amount, ...]:
    """Numbers of faults of a line such as "0,64,1%"; a percentage is a share of what there is."""
    try:
        return tuple(float(each[:-1]) / 100 if each.endswith("%") else int(each) for each in map(str.strip, text.split(",")))
    except ValueError as error:
        raise ConfigError(
            f"Expected numbers of faults with commas, whole ones or percentages such as 1%, got {text!r}."
        ) from error
