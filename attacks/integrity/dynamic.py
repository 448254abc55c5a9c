"""The dynamic trigger: a small change of its own for each sample, which a generator makes (Abad, NDSS 2024, after LIRA, Doan ICCV 2021)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trustsnn.attacks.integrity.backdoor import check_target
from trustsnn.attacks.integrity.triggers import Samples, Stamp, Trigger, corner
from trustsnn.blocks import BLOCK
from trustsnn.data import Dataset
from trustsnn.rng import stream
from trustsnn.settings import setting

_RATE = 2e-3


@dataclass(frozen=True, kw_only=True)
class Dynamic(Trigger):
    """x + eps g(x), held in [0, 1]: g, two convolutions with outputs in [-1, 1], is trained with a small ReLU network of its own, so that
    this network takes x for its class and the changed x for the target. Of events, which are whole numbers, the share `eps` of the entries
    changes, by one event each: those for which |g| is largest.

    In the paper the generator is trained with the network that is attacked. Here that network sees the trigger in poisoned samples
    alone, as with the other triggers.

    Args:
        eps: the largest change of a value of an image; the share of the entries of events that change.
        epochs: of the generator's training.
        width: its hidden channels.
    """

    eps: float = setting(0.1, 0.0, 1.0, above=True)
    epochs: int = setting(10, 1)
    width: int = setting(16, 1)

    name: ClassVar[str] = "dynamic"

    def made(self, data: Dataset, target: int, seed: int = 0) -> Stamp:
        check_target(data, target)
        corner(data, 1, "top-left")
        channels = int(np.prod(data.sample_shape[:-2]))
        most = None if data.domain == "image" else float(data.max_count or 1)
        generator, network = _convolutions((channels, self.width, channels)), _network(channels, self.width, len(data.classes))
        made = Generated(self.describe(), generator, self.eps, most)
        _initialise(nn.ModuleList([generator, network]), seed)
        generator.train()
        optimizer = torch.optim.Adam([*generator.parameters(), *network.parameters()], lr=_RATE)
        for epoch in range(self.epochs):
            order = stream(seed, f"dynamic/{epoch}").permutation(len(data))
            for rows in np.array_split(order, max(1, len(order) // 64)):
                x, y = (torch.from_numpy(each) for each in data.batch(rows))
                aim = torch.full_like(y, target)
                logits = [network(each.flatten(1, -3)) for each in (x, made.changed(x))]
                loss = cross_entropy(logits[0], y) + cross_entropy(logits[1], aim)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        generator.eval().requires_grad_(False)
        return made


class Generated:
    """The stamp of a generator; `most` is the largest number of events, None for images."""

    def __init__(self, trigger: dict[str, Any], generator: nn.Module, eps: float, most: float | None) -> None:
        self.trigger, self.generator, self.eps, self.most = trigger, generator, eps, most

    def __call__(self, x: Samples, ids: Sequence[str]) -> Samples:
        parts = []
        for start in range(0, len(x), BLOCK):
            part = torch.from_numpy(x[start : start + BLOCK])
            padding = part.new_zeros((BLOCK - len(part), *part.shape[1:]))  # one shape: the same bits in whatever company
            parts.append(self.changed(torch.cat([part, padding]))[: len(part)].numpy())
        return np.concatenate(parts)

    def changed(self, x: Tensor) -> Tensor:
        """Samples [B, ...] with the trigger; the change carries a gradient, of events straight through the rounding."""
        noise: Tensor = self.generator(x.flatten(1, -3)).reshape(x.shape).tanh()
        if self.most is None:
            return (x + self.eps * noise).clamp(0, 1)
        moved = (x + noise.detach().sign()).clamp(0, self.most)
        size = (noise.detach().abs() * (moved != x)).flatten(1)
        count = max(1, round(self.eps * size.shape[1]))
        order = torch.sort(size, dim=1, descending=True, stable=True).indices
        chosen = torch.zeros_like(size).scatter_(1, order[:, :count], 1.0)
        hard = torch.where(chosen.view_as(x) > 0, moved, x)
        return hard + (noise - noise.detach())  # 0, in parentheses to the last bit

    def describe(self) -> dict[str, Any]:
        weights = b"".join(each.numpy().tobytes() for each in self.generator.state_dict().values())
        return {**self.trigger, "generator": hashlib.sha256(weights).hexdigest()}


def _convolutions(channels: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _network(channels: int, width: int, classes: int) -> nn.Sequential:
    body = [*_convolutions((channels, width, 2 * width)), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(32 * width, classes))


def _initialise(module: nn.Module, seed: int) -> None:
    """Normal weights of variance 2 / fan-in, biases 0, drawn by name."""
    with torch.no_grad():
        for name, each in module.named_parameters():
            if each.dim() == 1:
                each.zero_()
                continue
            draws = stream(seed, "dynamic/weights", name).standard_normal(tuple(each.shape), dtype=np.float32)
            each.copy_(torch.from_numpy(draws) * (2 / each[0].numel()) ** 0.5)
