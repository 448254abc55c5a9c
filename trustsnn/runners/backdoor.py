"""Backdoors: what planting one left of a model, and a scan of a model with its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from trustsnn.attacks.integrity.backdoor import success
from trustsnn.attacks.integrity.evidence import Evidence
from trustsnn.attacks.integrity.inversion import Inversion
from trustsnn.attacks.integrity.scan import BACKDOORED, INCONCLUSIVE, Scan, verdict_of
from trustsnn.attacks.integrity.triggers import Stamp
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.files import write_arrays, write_text
from trustsnn.reports.backdoor import FORMAT, page
from trustsnn.runners.environment import environment
from trustsnn.runners.judged import Judged
from trustsnn.runners.resolve import fit
from trustsnn.runners.subject import data_record, model_record
from trustsnn.training import accuracy

WARNING = "This model was given a backdoor on purpose, to be studied. Do not deploy it."


def planted(models: Mapping[str, nn.Module], test: Dataset, stamp: Stamp, target: int, seed: int = 0) -> dict[str, Any]:
    """The accuracy of some models on clean samples, and the attack success rate of a trigger on those of other classes, by their names."""
    return {
        name: {
            "hash": model_hash(model),
            "clean": accuracy(model, test, seed=seed),
            "success": success(model, test, stamp, target, seed=seed),
        }
        for name, model in models.items()
    }


def backdoor_scan(
    model: nn.Module, data: Dataset, held_out: Dataset, out: Path, scan: Scan | None = None, *,
    references: Mapping[str, nn.Module] | None = None, gate: bool = False, told: Callable[[str], None] = lambda line: None,
) -> Judged:  # fmt: skip
    """Scan `model` and write scan.json, scan.html and triggers.npz (masks and patterns).

    Args:
        data: clean samples that the scan reads.
        held_out: others; the triggers that were found are tried on them.
        references: models that are known to be clean, which set the thresholds; see `Scan.calibrated`.
        gate: exit with 1 where a backdoor is found.

    Raises:
        ConfigError: a model does not fit the data, a sample is in both sets, or there are too few references.
    """
    scan = scan or Scan()
    spec = fit(model, data)
    fit(model, held_out)
    if both := set(data.ids) & set(held_out.ids):
        raise ConfigError(f"Expected held-out samples that the scan does not read, got {len(both)} in both.")
    names = {name: model_hash(each) for name, each in (references or {}).items()}
    if model_hash(model) in names.values():
        raise ConfigError("The model is among its references: a threshold that it sets itself finds nothing.")
    if references:
        calibration = []
        for name, each in references.items():
            fit(each, data)
            told(f"reference {name}")
            calibration.append(scan.run(each, data))
        scan = scan.calibrated(calibration)
    evidence = scan.run(model, data, told)
    verdict, clean = verdict_of(model, data, evidence, scan.seed)
    code = 3 if verdict.outcome == INCONCLUSIVE else int(gate and verdict.outcome == BACKDOORED)
    record: dict[str, Any] = {
        "format": FORMAT,
        "model": model_record(model, spec, model_hash(model)),
        "data": data_record(data),
        "held_out": data_record(held_out),
        "clean": dict(clean),
        "scan": scan.describe(),
        "references": names,
        "evidence": [each.to_dict() for each in evidence],
        "left_out": scan.left_out(model),
        "carried": _carried(model, evidence, scan, held_out),
        "verdict": verdict.to_dict(),
        "gate": gate,
        "environment": environment(),
    }
    arrays = next((dict(each.arrays) for each in evidence if each.reached is not None), {})
    write_arrays(out / "triggers.npz", arrays)
    write_text(out / "scan.html", page(record, arrays))
    write_text(out / "scan.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return Judged(record, out / "scan.html", code)


def _carried(model: nn.Module, evidence: Sequence[Evidence], scan: Scan, held_out: Dataset) -> list[Any] | None:
    for detector in scan.detectors:
        for each in evidence:
            if isinstance(detector, Inversion) and each.detector == detector.name:
                return detector.carried(model, each, held_out, scan.seed)
    return None
