"""What stands in front of every strategy: an update that is not finite, not of the model's shape, or out of proportion never reaches it.

Flower's strategies take what they are sent at face value: one NaN makes the mean and the median NaN, a million-fold update or a claim of
a billion samples owns the mean. Here a client whose update is refused is named with the reason, and the round goes on without it.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from trustsnn.federated.arrays import Arrays, norm
from trustsnn.federated.config import Limits


@dataclass(frozen=True)
class Answer:
    """What a client sent: its update, and the number of samples that it says stand behind it."""

    update: Mapping[str, Any]
    samples: Any


@dataclass(frozen=True)
class Verdict:
    """What a round goes on with: updates and weights by client, and who was refused or cut back and why."""

    updates: dict[int, Arrays]
    samples: dict[int, int]
    refused: dict[int, str]
    capped: dict[int, str]


def validate(answers: Mapping[int, Answer], shapes: Mapping[str, tuple[int, ...]], limits: Limits) -> Verdict:
    """Sort the answers of a round into those that a strategy may see and those that it may not.

    An update is refused where a name, shape or dtype (float32) is not the model's, a value is not finite, its norm is above `limits.norm` or
    above `norm_ratio` times the median norm of the round, or its sample count is no whole number from 1. A count above `samples`, or above
    `samples_ratio` times the median, is cut back to that. The two ratios hold while fewer than half of the clients lie, and from three
    clients on; a fixed bound holds always. Nothing here stops an update that is small and wrong: a flipped sign, a backdoor.
    """
    refused: dict[int, str] = {}
    updates: dict[int, Arrays] = {}
    samples: dict[int, int] = {}
    for client in sorted(answers):
        reason = malformed(answers[client], shapes)
        if reason is None:
            updates[client] = {name: np.asarray(answers[client].update[name]) for name in shapes}
            samples[client] = int(answers[client].samples)
        else:
            refused[client] = reason
    norms = {client: norm(update) for client, update in updates.items()}
    largest = _bound(limits.norm, limits.norm_ratio, list(norms.values()))
    for client, size in norms.items():
        if size > largest:
            refused[client] = f"its norm of {size:.4g} is above {largest:.4g}"
            del updates[client], samples[client]
    most = _bound(limits.samples, limits.samples_ratio, list(map(float, samples.values())))
    capped = {}
    for client, count in samples.items():
        if count > most:
            capped[client] = f"{count} samples counted as {int(most)}"
            samples[client] = max(1, int(most))
    return Verdict(updates, samples, refused, capped)


def malformed(answer: Answer, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why an answer is none that a strategy should see on its own, or None."""
    count = answer.samples
    if type(count) not in (int, float) or not (1 <= count < 2**53 and count == int(count)):
        return f"it says {reprlib.repr(count)} samples stand behind it, not a whole number from 1"
    if (reason := unfit(answer, shapes)) is not None:
        return reason
    wild = next((name for name in shapes if not np.isfinite(answer.update[name]).all()), None)
    return None if wild is None else f"{wild} holds values that are not finite"


def unfit(answer: Answer, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why an answer is none of this model, which no strategy can take, whatever its values; or None."""
    if type(answer.samples) not in (int, float):
        return f"it says {reprlib.repr(answer.samples)} samples stand behind it, no number"
    missing, extra = sorted(shapes.keys() - answer.update.keys()), sorted(answer.update.keys() - shapes.keys())
    if missing or extra:
        return f"its tensors are not the model's: {'; '.join(filter(None, [_some('missing', missing), _some('unknown', extra)]))}"
    for name, shape in shapes.items():
        array = answer.update[name]
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            return f"{name} is {getattr(array, 'dtype', type(array).__name__)}, not float32"
        if array.shape != tuple(shape):
            return f"{name} has the shape {list(array.shape)}, not {list(shape)}"
    return None


def _bound(fixed: float | None, ratio: float, values: list[float]) -> float:
    relative = ratio * median(values) if len(values) > 2 else math.inf
    return min(fixed if fixed is not None else math.inf, relative)


def _some(word: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{word} {', '.join(name[:60] for name in names[:3])}{' and more' * (len(names) > 3)}"
