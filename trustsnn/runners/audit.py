"""The audit: every cell of a plan on one model and one data set, recorded so that a killed run goes on where it was."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from trustsnn import reports
from trustsnn.attacks.autoattack import EnsembleResult, SNNAutoAttack, outcome
from trustsnn.attacks.losses import margin
from trustsnn.attacks.norms import size
from trustsnn.attacks.verdict import domain_violated, nonfinite_gradients, zero_gradients
from trustsnn.blocks import BLOCK, frozen, is_stochastic, observe
from trustsnn.checkpoint import model_hash
from trustsnn.data import Dataset
from trustsnn.errors import RunError, TrustSNNError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.spec import ModelSpec
from trustsnn.reports import gates as gates_of
from trustsnn.rng import Draws
from trustsnn.runners import cost, findings
from trustsnn.runners.config import AuditConfig, make_config
from trustsnn.runners.environment import environment
from trustsnn.runners.plan import PlannedCell, make_plan
from trustsnn.runners.progress import Reporter
from trustsnn.runners.records import RunFolder, run_head, samples_table
from trustsnn.runners.resolve import first_batch, fit, resolve_data, resolve_model
from trustsnn.statistics import proportion

PICTURES = 8


class RobustAccuracy(NamedTuple):
    """Robust accuracy at one (norm, eps): the value with its 95 % interval over `samples` samples, None where it could not
    be measured, and "ok" or "inconclusive"."""

    value: float | None
    low: float | None
    high: float | None
    samples: int
    status: str


@dataclass(frozen=True)
class Run:
    """A finished audit. Everything is read from its folder."""

    folder: Path
    summary: dict[str, Any]

    @property
    def verdict(self) -> str:
        """ "pass", "fail" or "inconclusive"."""
        return str(self.summary["verdict"])

    @property
    def exit_code(self) -> int:
        """What the command line returns: 0 pass, 1 a gate failed, 3 inconclusive."""
        return int(self.summary["exit_code"])

    @property
    def clean_accuracy(self) -> float | None:
        """Correctly classified without an attack, or None where it could not be measured."""
        value = self.summary["clean_accuracy"]["value"]
        return None if value is None else float(value)

    @property
    def robust_accuracy(self) -> dict[tuple[str, float], RobustAccuracy]:
        """By (norm, eps): the per-sample worst case over all cells of that threat."""
        return {
            (entry["norm"], entry["eps"]): RobustAccuracy(
                entry["value"], entry["low"], entry["high"], entry["count"], entry["status"]
            )
            for entry in self.summary["robust_accuracy"]
        }

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What makes the evaluation doubtful, each with type, message, evidence, threshold and source."""
        return list(self.summary["findings"])

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"


def audit(
    model: Any,
    data: Any,
    *,
    out: Path | str | None = None,
    profile: str = "quick",
    weights: Path | None = None,
    split: str = "test",
    data_root: Path | None = None,
    download: bool = False,
    command: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Audit a model and write a run folder with its report.

    Args:
        model: a module with a spec (bundled, or from `trustsnn.wrap`), a checkpoint folder, or "package.module:callable".
        data: a data-set name, a folder, an .npz, a Dataset, a pair (x, y) of tensors or arrays, or a DataLoader.
        out: the run folder; the same call on it resumes. A temporary folder if not given.
        profile: "quick", "standard" or "full"; see `trustsnn list profiles`.
        settings: further keys of `AuditConfig`: norms, eps, attacks, samples, seed, batch_size, memory, gates.

    Raises:
        ConfigError, DataError, ModelContractError, RunError, UnsafeArtifactError: with what was expected and how to mend it.
    """
    config = make_config({"profile": profile, **settings})
    found = resolve_model(model, weights)
    if isinstance(found, SpikingNetwork):
        found.memory = config.memory
    dataset = resolve_data(data, found.spec, split=split, root=data_root, download=download)  # type: ignore[arg-type]
    spec = fit(found, dataset)
    dataset = dataset.take(config.samples or len(dataset), config.seed)
    gates = [gates_of.parse(text) for text in config.gates]
    subject = {"model": model_hash(found, first_batch(dataset)), "data": dataset.samples_sha256}
    plan = make_plan(found, subject, config)
    gates_of.check_planned(gates, sorted({(p.attack.norm, p.attack.eps) for p in plan if p.attack is not None}))
    head = run_head(
        _config_record(config, command), _model_record(found, spec, subject["model"]), _data_record(dataset), environment(),
        [gate.text for gate in gates], [planned.cell for planned in plan],
    )  # fmt: skip
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="trustsnn-"))
    with RunFolder.open(folder, head) as run, Reporter(quiet) as reporter:
        _run_cells(run, plan, found, dataset, config, reporter)
        run.merge()
        reports.write(folder)
    return Run(folder, reports.summarise(folder))


def _run_cells(
    run: RunFolder, plan: Sequence[PlannedCell], model: nn.Module, data: Dataset, config: AuditConfig, reporter: Reporter
) -> None:
    reporter.start(len(plan), len(data), done=sum(p.key in run.records for p in plan))
    told = False
    for planned in plan:
        if planned.key in run.records:
            continue
        if isinstance(planned.attack, SNNAutoAttack) and not told:
            left = [p.attack for p in plan if p.key not in run.records]
            x, y = (torch.from_numpy(values) for values in data.batch(range(min(BLOCK, len(data)))))
            reporter.line(cost.predicted(left, model, x, y, len(data)))
            told = True
        reporter.cell(planned.label)
        begun = time.perf_counter()
        try:
            record, table, pictures = _evaluate(run, plan, planned, model, data, config, reporter)
        except RunError:
            raise
        except Exception as error:
            if planned.attack is None and isinstance(error, TrustSNNError):
                raise
            message = f"This evaluation stopped with {type(error).__name__}: {error}"
            reason: dict[str, Any] = {
                "type": "error",
                "message": message,
                "evidence": {},
                "threshold": None,
                "source": "trustsnn runner",
            }
            run.fail(_record(planned, "error", [reason], None, [], {}))
            reporter.finished(f"{planned.label}: {message}")
            if planned.attack is None:
                break  # every attack is judged against the clean cell
            continue
        seconds = time.perf_counter() - begun
        run.finish(record, table, pictures, seconds)
        figure = record["accuracy"]
        reporter.finished(
            f"{planned.label}: {figure['value']:.1%} of {figure['count']} correct, {record['status']}, in {seconds:.1f} s"
        )


def _evaluate(
    run: RunFolder,
    plan: Sequence[PlannedCell],
    planned: PlannedCell,
    model: nn.Module,
    data: Dataset,
    config: AuditConfig,
    reporter: Reporter,
) -> tuple[dict[str, Any], pa.Table, dict[str, Any] | None]:
    attack = planned.attack
    reasons = findings.of_the_model(model, first_batch(data), model.spec.classes) if attack is None else []  # type: ignore[union-attr, arg-type]
    clean = run.samples(plan[0].key) if attack is not None else None
    shown = _shown(clean, data) if clean is not None else np.zeros(0, dtype=np.int64)
    columns: dict[str, list[Any]] = {name: [] for name in ("label", "prediction", "correct", "margin", "linf", "l2")}
    broken_by: list[str | None] = []
    members: list[list[dict[str, Any]]] = []
    logits: list[Any] = []
    zero, bad = np.zeros(len(data), dtype=bool), np.zeros(len(data), dtype=bool)
    spikes: dict[str, tuple[int, int]] = {}
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    low, high, largest = 1.0, 0.0, 0.0
    for start in range(0, len(data), config.batch_size):
        rows = np.arange(start, min(start + config.batch_size, len(data)))
        x, y = (torch.from_numpy(values) for values in data.batch(rows))
        ids = tuple(data.ids[i] for i in rows)
        adversarial = x
        if attack is not None:
            result = attack.run(model, x, y, ids)
            adversarial = result.adversarial
            zero[rows], bad[rows] = result.zero_gradient.numpy(), result.nonfinite_gradient.numpy()
            if isinstance(result, EnsembleResult):
                members.append(outcome(result))
                broken_by += result.names()
        with frozen(model):
            draws = Draws(config.seed, "predict", ids) if is_stochastic(model) else None
            seen = observe(model, adversarial, draws)
        prediction = seen.logits.argmax(1)
        logits.append(seen.logits.numpy())
        delta = adversarial - x
        for name, values in (
            ("label", y), ("prediction", prediction), ("correct", prediction == y),
            ("margin", -margin(seen.logits, y)), ("linf", size(delta, "linf")), ("l2", size(delta, "l2")),
        ):  # fmt: skip
            columns[name].append(values.numpy())
        for layer, (fired, places) in seen.spikes.items():
            before = spikes.get(layer, (0, 0))
            spikes[layer] = (before[0] + fired, before[1] + places)
        for row in np.intersect1d(rows, shown).tolist():
            kept[row] = (x[row - start], adversarial[row - start])
        low, high = min(low, float(adversarial.min())), max(high, float(adversarial.max()))
        if attack is not None:
            largest = max(largest, float(size(delta, attack.norm).max()))
        reporter.advance(len(rows))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    diagnostics: dict[str, Any] = {}
    if attack is None:
        reasons += findings.of_ties(np.concatenate(logits))
    elif clean is not None:
        attacked = _correct(run, plan[0].key)
        diagnostics = {
            "zero_gradient_fraction": float(zero[attacked].mean()) if attacked.any() else 0.0,
            "nonfinite_gradients": int(bad[attacked].sum()),
        }
        finished = [p for p in plan if p.key in run.records]
        reasons = [
            *zero_gradients(zero[attacked]),
            *nonfinite_gradients(bad[attacked]),
            *domain_violated(largest, attack.eps, low, high),
            *findings.of_the_attack(finished, planned, attack, arrays["correct"], partial(_correct, run)),
        ]
        if members:
            diagnostics["members"] = findings.merged(members)
            reasons += findings.of_the_ensemble(diagnostics["members"], arrays["correct"], broken_by)
        if isinstance(attack, SNNAutoAttack) and attack.eps == max(config.eps):
            reasons += _unbounded(model, attack, data, np.flatnonzero(attacked)[: findings.UNBOUNDED_SAMPLES])
    accuracy = proportion(int(arrays["correct"].sum()), len(data))
    rates = [{"layer": name, "rate": fired / places} for name, (fired, places) in spikes.items()]
    record = _record(planned, "inconclusive" if reasons else "ok", reasons, dict(accuracy), rates, diagnostics)
    table = samples_table(planned.key, {"sample": list(data.ids), **arrays, "broken_by": broken_by or [None] * len(data)})
    return record, table, _pictures(data, clean, arrays, kept) if clean is not None else None


def _record(
    planned: PlannedCell,
    status: str,
    reasons: list[dict[str, Any]],
    accuracy: dict[str, Any] | None,
    rates: list[dict[str, Any]],
    diagnostics: dict[str, Any],
) -> dict[str, Any]:
    return {
        "key": planned.key,
        "cell": planned.cell,
        "status": status,
        "reasons": reasons,
        "accuracy": accuracy,
        "spike_rates": rates,
        "diagnostics": diagnostics,
    }


def _correct(run: RunFolder, key: str) -> Any:
    return run.samples(key)["correct"].to_numpy(zero_copy_only=False)


def _unbounded(model: nn.Module, attack: SNNAutoAttack, data: Dataset, rows: Any) -> list[dict[str, Any]]:
    if not len(rows):
        return []
    x, y = (torch.from_numpy(values) for values in data.batch(rows))
    return findings.of_an_unbounded_attack(model, attack, x, y, tuple(data.ids[i] for i in rows))


def _shown(clean: pa.Table, data: Dataset) -> Any:
    """Rows of the samples that the report pictures: the first that are correct without an attack."""
    correct = clean["correct"].to_numpy(zero_copy_only=False)
    return np.flatnonzero(correct)[:PICTURES]


def _pictures(
    data: Dataset, clean: pa.Table, arrays: dict[str, Any], kept: dict[int, tuple[Tensor, Tensor]]
) -> dict[str, Any] | None:
    rows = sorted(kept)
    if not rows:
        return None
    return {
        "sample": np.array([data.ids[row] for row in rows]),
        "label": arrays["label"][rows],
        "clean_prediction": clean["prediction"].to_numpy()[rows],
        "prediction": arrays["prediction"][rows],
        "clean": np.stack([kept[row][0].numpy() for row in rows]),
        "adversarial": np.stack([kept[row][1].numpy() for row in rows]),
    }


def _config_record(config: AuditConfig, command: str | None) -> dict[str, Any]:
    """The settings that decide the figures. The batch size and the memory do not, and gates have their own place."""
    record = config.model_dump(mode="json", exclude={"batch_size", "memory", "gates"})
    record["attacks"] = [item.model_dump(mode="json") for item in config.resolved_attacks()]
    return {**record, "block": BLOCK, "command": command}


def _model_record(model: nn.Module, spec: ModelSpec, digest: str) -> dict[str, Any]:
    architecture = getattr(model, "architecture", None)
    inner = getattr(model, "module", model)
    return {
        "name": architecture["name"] if architecture else type(inner).__name__,
        "hash": digest,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "spec": spec.to_dict(),
    }


def _data_record(data: Dataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "split": data.split,
        "sha256": data.sha256,
        "samples_sha256": data.samples_sha256,
        "count": len(data),
        "classes": list(data.classes),
    }
