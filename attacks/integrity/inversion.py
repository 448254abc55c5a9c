"""Trigger inversion (Neural Cleanse, Wang, IEEE S&P 2019): for each class the smallest mask and pattern that carry samples of the others to it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.attacks.integrity.backdoor import success
from trustsnn.attacks.integrity.evidence import Evidence, outliers
from trustsnn.attacks.integrity.triggers import Samples
from trustsnn.blocks import frozen, input_gradient
from trustsnn.data import Dataset
from trustsnn.models.spec import ModelSpec
from trustsnn.neurons import GradientEstimator
from trustsnn.rng import Draws
from trustsnn.settings import check_settings, setting
from trustsnn.statistics import Figure

INDEX = 2.0
_UP, _DOWN = 1.5, 1.5**1.5
_FIRST = 1e-3  # the weight of the penalty at its first use, as in the paper's code
_FLOOR = 1.0  # pixels: masks no further apart than this are no different


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """x' = (1 - m) x + m p with a mask m [1, H, W] and a pattern p in the domain of the samples, found by Adam on the mean cross-entropy of x'
    to the class and a weight times |m|_1. The weight rises by 1.5 after `patience` steps in a row on which at least `wanted` of the samples
    of other classes reach the class, and falls by 1.5^1.5 after as many on which fewer do. The smallest mask that carried `wanted`
    stays. Events are rounded on the way, straight through in the backward pass, so that they stay events.

    The statistic of a class is |m|_1 in pixels; a class that no mask reached has that of all pixels.

    Args:
        steps: of Adam.
        rate: of Adam, in the logits of mask and pattern.
        wanted: share of the samples that a trigger has to carry.
        patience: see above.
        estimator: how spikes are differentiated; None leaves it to the model.
    """

    steps: int = setting(200, 1)
    rate: float = setting(0.1, 0.0, above=True)
    wanted: float = setting(0.95, 0.0, 1.0, above=True)
    patience: int = setting(5, 1)
    estimator: GradientEstimator | None = None

    name: ClassVar[str] = "inversion"
    source: ClassVar[str] = "Neural Cleanse (Wang 2019): anomaly index above 2, of masks below the median"
    threshold: ClassVar[float] = INDEX

    def __post_init__(self) -> None:
        check_settings(self, "trigger inversion")

    def run(self, model: nn.Module, data: Dataset, seed: int = 0) -> Evidence:
        """What the samples of `data`, which are clean, say of each class of `model`."""
        spec: ModelSpec = model.spec  # type: ignore[assignment]
        estimator = self.estimator.applied(model) if self.estimator is not None else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), frozen(model), estimator:
            masks, patterns, reached, moved = self._search(model, spec, data, seed)
        sizes = masks.flatten(1).sum(1).double().numpy()
        sizes[~reached] = masks[0].numel()
        problem = None
        if not moved:
            problem = "zero gradient: no gradient reached mask or pattern, so that the search says nothing of the model"
        elif reached.sum() < 2:
            problem = f"{int(reached.sum())} of {len(sizes)} classes were reached by a mask, too few to call one of them small"
        return Evidence(
            self.name, "size of the mask, pixels", tuple(sizes.tolist()), outliers(-sizes, _FLOOR), self.threshold, self.source, problem,
            {"mask": masks.numpy(), "pattern": patterns.numpy()}, tuple(bool(each) for each in reached),
        )  # fmt: skip

    def _search(
        self, model: nn.Module, spec: ModelSpec, data: Dataset, seed: int
    ) -> tuple[Tensor, Tensor, NDArray[np.bool_], bool]:
        x, labels = (torch.from_numpy(each) for each in data.batch(np.arange(len(data))))
        classes, most = spec.classes, 1.0 if spec.domain != "events-count" else float(spec.max_count or 1)
        names = tuple(map(str, range(classes)))
        mask = (4 * Draws(seed, "inversion/mask", names).uniform((1, *x.shape[-2:])) - 4).requires_grad_()
        pattern = (4 * Draws(seed, "inversion/pattern", names).uniform(tuple(x.shape[1:])) - 2).requires_grad_()
        optimizer = torch.optim.Adam([mask, pattern], lr=self.rate, betas=(0.5, 0.9))
        y = torch.arange(classes).repeat_interleave(len(x))
        other = (y != labels.repeat(classes)).view(classes, len(x))
        count = other.sum(1).clamp(min=1)
        draws = Draws(seed, "inversion/model", data.ids * classes)
        weight, well, badly = torch.zeros(classes), torch.zeros(classes), torch.zeros(classes)
        best, size = [mask.detach().sigmoid(), pattern.detach().sigmoid()], torch.full((classes,), torch.inf)
        moved = False
        for step in range(self.steps):
            m, p = mask.sigmoid(), most * pattern.sigmoid()
            everywhere = m.view(classes, *[1] * (x.dim() - 2), *x.shape[-2:])  # one mask for the batch, all steps and channels
            stamped = (1 - everywhere) * x + everywhere * p[:, None]
            seen = stamped.detach() if spec.domain == "image" else stamped.detach().round()
            found = input_gradient(model, seen.flatten(0, 1), y, _loss, draws.child(step))
            gradient = found.direction * found.scale.view(-1, *[1] * (x.dim() - 1)).to(found.direction.dtype)
            share = (other & (found.logits.argmax(1) == y).view_as(other)).sum(1) / count
            now = m.detach().flatten(1).sum(1)
            better = (share >= self.wanted) & (now < size)
            for kept, value in zip(best, (mask, pattern), strict=True):
                kept[better] = value.detach().sigmoid()[better]
            size = torch.where(better, now, size)
            weights = (other / count[:, None]).view(-1, *[1] * (x.dim() - 1))
            back = (gradient.nan_to_num(0.0, 0.0, 0.0) * weights).view_as(stamped)
            moved = moved or bool((back != 0).any())
            optimizer.zero_grad()
            penalty = (weight * m.flatten(1).sum(1)).sum()
            torch.autograd.backward([stamped, penalty], [back, None])
            optimizer.step()
            well, badly = torch.where(share >= self.wanted, well + 1, 0), torch.where(share >= self.wanted, 0, badly + 1)
            up, down = well >= self.patience, badly >= self.patience
            weight = torch.where(up, torch.where(weight == 0, _FIRST, weight * _UP), torch.where(down, weight / _DOWN, weight))
            well[up], badly[down] = 0, 0
        return best[0], best[1] * most, torch.isfinite(size).numpy(), moved

    def carried(self, model: nn.Module, evidence: Evidence, data: Dataset, seed: int = 0) -> list[Figure | None]:
        """For each class the share of the samples of other classes in `data`, which the search should not have read, that its trigger carries
        there; None for a class that no mask reached or of which there are no others."""
        assert evidence.reached is not None
        found: list[Figure | None] = []
        for target, reached in enumerate(evidence.reached):
            others = int((data.labels != target).sum()) if reached else 0
            stamp = Inverted(evidence.arrays["mask"][target], evidence.arrays["pattern"][target], data.domain != "image")
            found.append(success(model, data, stamp, target, seed=seed) if others else None)
        return found

    def describe(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {
            "detector": self.name, "steps": self.steps, "rate": self.rate, "wanted": self.wanted, "patience": self.patience,
            "estimator": None if self.estimator is None else self.estimator.describe(),
        }  # fmt: skip


@dataclass(frozen=True)
class Inverted:
    """The stamp of a mask [1, H, W] and a pattern of a sample's shape; events are rounded."""

    mask: Samples
    pattern: Samples
    events: bool

    def __call__(self, x: Samples, ids: Sequence[str]) -> Samples:
        found = ((1 - self.mask) * x + self.mask * self.pattern).astype(np.float32)
        return np.round(found) if self.events else np.clip(found, 0, 1)

    def describe(self) -> dict[str, Any]:
        digests = [hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest() for each in (self.mask, self.pattern)]
        return {"name": "inverted", "mask": digests[0], "pattern": digests[1]}


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits, y, reduction="none")
