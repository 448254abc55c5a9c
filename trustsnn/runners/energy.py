"""The energy of a model on data: operations counted, tables applied, and inputs that inflate both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trustsnn.attacks.integrity import Sponge
from trustsnn.blocks import frozen
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.data.arrays import Stored
from trustsnn.energy import Counts, count, metrics
from trustsnn.energy.conventions import break_even, energies, level_bits, tables
from trustsnn.energy.costs import by_sample, latency, memory, work_of
from trustsnn.energy.means import mean, ratio
from trustsnn.energy.neurobench import intervals
from trustsnn.errors import ConfigError
from trustsnn.files import write_text
from trustsnn.models.network import SpikingNetwork
from trustsnn.reports.energy import FORMAT, page
from trustsnn.runners.environment import environment
from trustsnn.runners.judged import Judged
from trustsnn.runners.resolve import fit
from trustsnn.runners.subject import data_record, model_record


def energy(
    model: nn.Module,
    data: Dataset,
    out: Path,
    attacks: Sequence[Sponge] = (),
    *,
    fail_over: float | None = None,
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> Judged:
    """Count the operations of `model` on `data`, price them, run the attacks, and write energy.json and energy.html.

    Args:
        attacks: energy and latency attacks on the same samples.
        fail_over: the gate: the largest ratio of energy after an attack to that before that passes.

    Raises:
        ConfigError: the model does not fit the data, cannot be counted or attacked, or the gate has nothing to hold.
    """
    if fail_over is not None and (fail_over <= 0 or not attacks):
        raise ConfigError(f"A gate on the ratio of energies is above 0 and needs an attack, got {fail_over} and {len(attacks)}.")
    spec = fit(model, data)
    counts = count(model, data, seed=seed)
    work, added = work_of(counts), work_of(counts, additions=True)
    record: dict[str, Any] = {
        "format": FORMAT,
        "model": model_record(model, spec, model_hash(model)),
        "data": data_record(data),
        "seed": seed,
        "metrics": metrics(counts),
        "intervals": intervals(counts),
        "layers": _layers(counts),
        "neurons": [
            {"layer": each.name, "neurons": each.neurons, "rate": mean(each.spikes / each.places)} for each in counts.neurons
        ],
        "energies": {"multiply": energies(work, spec.steps), "add": energies(added, spec.steps)},
        "averages": [layer.name for layer in counts.layers if layer.additions is not None and not layer.accumulates],
        "bits": level_bits(spec.steps),
        "break_even": {name: _finite(break_even(added, spec.steps, name == "memory")) for name in ("operations", "memory")},
        "latency": latency(counts),
        "memory": memory(counts),
        "tables": tables(),
        "attacks": [],
        "environment": environment(),
    }
    for attack in attacks:
        told(f"{attack.aim} attack within {attack.norm} {attack.eps:g} ...")
        record["attacks"].append(_attacked(model, data, counts, attack, seed))
    record["gate"] = None
    if fail_over is not None:
        ratios = [each["energy"]["value"] for each in record["attacks"]]
        worst = None if None in ratios else max(ratios)  # None: the model does nothing without the attack
        record["gate"] = {"bound": fail_over, "value": worst, "holds": worst is not None and worst <= fail_over}
    write_text(out / "energy.html", page(record))
    write_text(out / "energy.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    failed = record["gate"] is not None and not record["gate"]["holds"]
    return Judged(record, out / "energy.html", int(failed))


def _layers(counts: Counts) -> list[dict[str, Any]]:
    return [
        {
            "layer": layer.name,
            "kind": "attention" if layer.attention else "accumulate" if layer.accumulates else "multiply",
            "calls": layer.calls,
            "dense": layer.dense,
            "effective": mean(layer.effective),
            "additions": None if layer.additions is None else mean(layer.additions),
            "nonzero": mean(layer.nonzero / layer.inputs),
        }
        for layer in counts.layers
    ]


def _attacked(model: nn.Module, data: Dataset, before: Counts, attack: Sponge, seed: int) -> dict[str, Any]:
    """The same samples before and after an attack, as ratios of means over them."""
    if not isinstance(model, SpikingNetwork):
        raise ConfigError(f"Energy attacks read the spikes of a network of trustsnn's layers, got {type(model).__name__}.")
    x, y = (torch.from_numpy(values) for values in data.batch(np.arange(len(data))))
    with frozen(model):
        made = attack.run(model, x, y, data.ids)
    after = count(model, replace(data, values=Stored(made.adversarial.numpy()), rows=None), seed=seed)
    busiest = max(range(len(before.layers)), key=lambda place: before.layers[place].effective.mean())
    return {
        "settings": attack.describe(),
        "estimator": None if attack.estimator is None else attack.estimator.describe(),
        "energy": ratio(by_sample(after, additions=True), by_sample(before, additions=True)),
        "energy_memory": ratio(by_sample(after, memory=True, additions=True), by_sample(before, memory=True, additions=True)),
        "spikes": ratio(after.spikes, before.spikes),
        "operations": ratio(after.macs + after.acs, before.macs + before.acs),
        "latency": {
            "layer": before.layers[busiest].name,
            **ratio(after.layers[busiest].effective, before.layers[busiest].effective),
        },
        "same_prediction": float((after.predictions == before.predictions).mean()),
        "accuracy": dict(after.accuracy),
        "zero_gradient": int(made.zero_gradient.sum()),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
