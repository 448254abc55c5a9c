"""The audit: every cell of a plan on one model and one data set, recorded so that a killed run goes on where it was."""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trustsnn import reports
from trustsnn.attacks.autoattack import SNNAutoAttack
from trustsnn.attacks.bisection import Bisection
from trustsnn.blocks import BLOCK, evaluated
from trustsnn.checkpoint import model_hash
from trustsnn.errors import RunError, TrustSNNError
from trustsnn.models.network import SpikingNetwork
from trustsnn.reports import gates as gates_of
from trustsnn.runners import cost, evaluate, hardware, shift
from trustsnn.runners.config import make_config
from trustsnn.runners.environment import environment
from trustsnn.runners.measure import Job, record
from trustsnn.runners.plan import Corruption, Outside, PlannedCell, attacks_to_run, balls, make_plan
from trustsnn.runners.progress import Reporter
from trustsnn.runners.records import RunFolder, run_head
from trustsnn.runners.resolve import first_batch, fit, resolve_data, resolve_model
from trustsnn.runners.result import Run
from trustsnn.runners.subject import config_record, data_record, model_record


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
    """Audit a model and write a run folder with its report. The model is left in the mode that it was in.

    Args:
        model: a module with a spec (bundled, or from `trustsnn.wrap`), a checkpoint folder, or "package.module:callable".
        data: a data-set name, a folder, an .npz, a Dataset, a pair (x, y) of tensors or arrays, or a DataLoader.
        out: the run folder; the same call on it resumes. A temporary folder if not given.
        profile: "quick", "standard" or "full"; see `trustsnn list profiles`.
        settings: further keys of `AuditConfig`: norms, eps, attacks, corruptions, severities, ood, twins, chips, samples, seed,
            batch_size, memory, gates.

    Raises:
        ConfigError, DataError, ModelContractError, RunError, UnsafeArtifactError: with what was expected and how to mend it.
    """
    config = make_config({"profile": profile, **settings})
    with evaluated(model) if isinstance(model, nn.Module) else nullcontext():
        found = resolve_model(model, weights)
        if isinstance(found, SpikingNetwork):
            found.memory = config.memory
        dataset = resolve_data(data, found.spec, split=split, root=data_root, download=download)  # type: ignore[arg-type]
        spec = fit(found, dataset)
        dataset = dataset.take(config.samples or len(dataset), config.seed)
        gates = [gates_of.parse(text) for text in config.gates]
        subject = {"model": model_hash(found, first_batch(dataset)), "data": dataset.samples_sha256}
        shift.check_corruptions(config, spec, dataset)
        outside = shift.resolve_outside(config, spec, dataset, split=split, root=data_root, download=download)
        plan = make_plan(found, subject, config, outside)
        gates_of.check_planned(gates, balls(plan), corruptions=bool(config.corruptions))
        head = run_head(
            config_record(config, spec.domain, command), model_record(found, spec, subject["model"]), data_record(dataset), environment(),
            [gate.text for gate in gates], [planned.cell for planned in plan],
        )  # fmt: skip
        folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="trustsnn-"))
        with RunFolder.open(folder, head) as run, Reporter(quiet) as reporter:
            _run_cells(Job(run, plan, found, dataset, config, reporter))
            run.merge()
            reports.write(folder)
        return Run(folder, reports.summarise(folder))


def _run_cells(job: Job) -> None:
    done = job.run.records
    job.reporter.start(len(job.plan), len(job.data), done=sum(p.key in done for p in job.plan))
    told = False
    for planned in job.plan:
        if planned.key in done:
            continue
        if isinstance(planned.attack, SNNAutoAttack | Bisection) and not told:
            left = attacks_to_run(p for p in job.plan if p.key not in done)
            x, y = (torch.from_numpy(values) for values in job.data.batch(range(min(BLOCK, len(job.data)))))
            for line in cost.predicted(left, job.model, x, y, len(job.data)):
                job.reporter.line(line)
            told = True
        job.reporter.cell(planned.label)
        begun = time.perf_counter()
        try:
            found = _evaluate(job, planned)
        except RunError:
            raise
        except Exception as error:
            first = planned is job.plan[0]
            if first and isinstance(error, TrustSNNError):
                raise
            _fail(job, planned, error)
            if first:
                break  # every attack is judged against the clean cell
            continue
        seconds = time.perf_counter() - begun
        job.run.finish(found.record, found.samples, found.pictures, seconds)
        job.reporter.finished(f"{planned.label}: {_told(found.record)}, {found.record['status']}, in {seconds:.1f} s")
    for planned in job.plan:
        if planned.key in done:
            job.run.amend(evaluate.beside_the_others(job, planned))


def _evaluate(job: Job, planned: PlannedCell) -> evaluate.Evaluated:
    if planned.chips is not None:
        return evaluate.Evaluated(hardware.on_chips(job, planned, planned.chips), None, None)
    if planned.attack is not None:
        return evaluate.attacked(job, planned, planned.attack)
    if isinstance(planned.shift, Corruption):
        return shift.corruption(job, planned, planned.shift)
    if isinstance(planned.shift, Outside):
        return shift.outside(job, planned, planned.shift)
    return evaluate.clean(job, planned)


def _told(record: dict[str, Any]) -> str:
    figure = record["accuracy"]
    if "chips" in record:
        right, count = sorted(record["chips"]["correct"]), record["chips"]["count"]
        return f"{right[(len(right) - 1) // 2] / count:.1%} correct on the median chip, {right[0] / count:.1%} on the worst"
    if figure is None:
        return ", ".join(f"{name} AUROC {record['detection'][name]['auroc']:.3f}" for name in ("energy", "max-softmax"))
    return f"{figure['value']:.1%} of {figure['count']} correct"


def _fail(job: Job, planned: PlannedCell, error: Exception) -> None:
    message = f"This evaluation stopped with {type(error).__name__}: {error}"
    reason: dict[str, Any] = {"type": "error", "message": message, "evidence": {}, "threshold": None, "source": "trustsnn runner"}
    job.run.fail(record(planned, "error", [reason], None, [], {}))
    job.reporter.finished(f"{planned.label}: {message}")
