"""Evaluations on hardware twins: many chips of one kind, with what was made on the network and what was made on a chip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.attacks.verdict import network_beats_chip, nonfinite_gradients, zero_gradients
from trustsnn.hardware.batched import predict_chips
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws
from trustsnn.runners.chips import Chips
from trustsnn.runners.measure import Job, record
from trustsnn.runners.plan import AnyAttack, Corruption, PlannedCell
from trustsnn.runners.shift import corrupted_batch


def on_chips(job: Job, planned: PlannedCell, chips: Chips) -> dict[str, Any]:
    """The record of a cell on chips: how many samples each chip classifies correctly, and how many the network does."""
    assert isinstance(job.model, SpikingNetwork)
    reasons: list[dict[str, Any]] = []
    if planned.attack is None or planned.of is None:
        x = _without_attack(job, planned)
    elif chips.maker == "network":
        x = _of_the_network(job, planned.attack, planned.of)
    else:
        maker = chips.chip(job.model, 0)
        x, reasons = _made(job, planned.attack, maker)
        transferred, own = (_correct(job, [maker], each)[0] for each in (_of_the_network(job, planned.attack, planned.of), x))
        reasons = [*reasons, *network_beats_chip(transferred, own)]
    right = np.concatenate([_correct(job, some, x) for some in chips.groups(job.model)])
    network = int(_correct(job, [job.model], x).sum())
    found = {"correct": right.sum(1).tolist(), "network": network, "count": len(job.data)}
    return {**record(planned, "inconclusive" if reasons else "ok", reasons, None, [], {}), "chips": found}


def _without_attack(job: Job, planned: PlannedCell) -> Tensor:
    """The samples [N, ...] as they are, or as a corruption leaves them."""
    shift = planned.shift if isinstance(planned.shift, Corruption) else None
    return torch.cat([x if shift is None else corrupted_batch(job, shift, x, ids) for x, _, ids in _batches(job)])


def _of_the_network(job: Job, attack: AnyAttack, key: str) -> Tensor:
    """What an attack makes of the samples on the network without hardware, [N, ...]: made once in a run, and kept by that key."""
    kept = job.run.kept(key)
    if kept is not None:
        return torch.from_numpy(kept)
    x, _ = _made(job, attack, job.model)
    job.run.keep(key, x.numpy())
    return x


def _made(job: Job, attack: AnyAttack, on: nn.Module) -> tuple[Tensor, list[dict[str, Any]]]:
    """What an attack makes of the samples on a model, [N, ...], and the findings on its gradients."""
    made = []
    for x, y, ids in _batches(job):
        made.append(attack.run(on, x, y, ids))
        job.reporter.advance(len(x))
    zero, bad = (
        torch.cat([getattr(result, name) for result in made]).numpy() for name in ("zero_gradient", "nonfinite_gradient")
    )
    right = job.correct(job.plan[0].key)
    return torch.cat([result.adversarial for result in made]), [*zero_gradients(zero[right]), *nonfinite_gradients(bad[right])]


def _batches(job: Job) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
    for start in range(0, len(job.data), job.batch):
        rows = np.arange(start, min(start + job.batch, len(job.data)))
        x, y = (torch.from_numpy(values) for values in job.data.batch(rows))
        yield x, y, tuple(job.data.ids[i] for i in rows)


def _correct(job: Job, models: Sequence[SpikingNetwork], x: Tensor) -> NDArray[np.bool_]:
    """Which of the samples `x` each of the models classifies correctly, [models, N]."""
    logits = predict_chips(models, x, Draws(job.config.seed, "predict", tuple(job.data.ids)))
    correct: NDArray[np.bool_] = (logits.argmax(2) == torch.tensor(job.data.labels)).numpy()
    return correct
