"""What a client can do before it shows an update: clip it, add noise, send a part of it or fewer bits, or code its inputs by chance."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from trustsnn.attacks.leakage.updates import Update
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.norms import BatchNormThroughTime
from trustsnn.rng import stream

Gradients = Mapping[str, Tensor]
Key = tuple[int, str]  # of the draws: seed and sample ids


def _clip(gradients: Gradients, norm: float, key: Key) -> Gradients:
    size = math.sqrt(sum(float(each.double().square().sum()) for each in gradients.values()))
    return {name: each * min(1.0, norm / size) for name, each in gradients.items()} if size else gradients


def _noise(gradients: Gradients, deviation: float, key: Key) -> Gradients:
    def drawn(name: str, like: Tensor) -> Tensor:
        found = stream(key[0], f"update/noise/{name}", key[1]).standard_normal(tuple(like.shape), dtype="float32")
        return torch.as_tensor(found).to(like)

    return {name: each + deviation * drawn(name, each) for name, each in gradients.items()}


def _largest(gradients: Gradients, share: float, key: Key) -> Gradients:
    flat = torch.cat([each.flatten() for each in gradients.values()])
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[flat.abs().argsort(descending=True, stable=True)[: max(1, round(share * len(flat)))]] = True
    parts = kept.split([each.numel() for each in gradients.values()])
    return {name: each * part.view_as(each) for (name, each), part in zip(gradients.items(), parts, strict=True)}


def _rounded(gradients: Gradients, bits: float, key: Key) -> Gradients:
    most = 2 ** (int(bits) - 1) - 1

    def one(each: Tensor) -> Tensor:
        unit = each.abs().max() / most
        return torch.where(unit > 0, (each / unit).round() * unit, torch.zeros_like(each))

    return {name: one(each) for name, each in gradients.items()}


class Part(NamedTuple):
    """A defence by what it does, the range of its number, and its function."""

    description: str
    low: float
    high: float
    whole: bool
    apply: Callable[[Gradients, float, Key], Gradients] | None


PARTS = {
    "clip": Part("the whole update scaled down to an L2 norm of at most this", 1e-12, 1e12, False, _clip),
    "noise": Part("a normal draw of this standard deviation added to every entry", 0.0, 1e12, False, _noise),
    "topk": Part("this share of the entries sent, those of the largest size, the others as 0", 1e-12, 1.0, False, _largest),
    "bits": Part(
        "every tensor rounded to whole numbers of that many bits, with one scale a tensor, max |g| / (2^(bits-1) - 1)", 2, 16, True,
        _rounded,
    ),
    "poisson": Part("the same weights with Poisson coding of that many steps, or of the model's", 1, 4096, True, None),
}  # fmt: skip


@dataclass(frozen=True)
class Defence:
    """Defences one after the other: parts by name with their number (None: not given), and the line that says so.

    >>> Defence.parse("clip=1+noise=0.01").parts
    (('clip', 1.0), ('noise', 0.01))
    """

    line: str
    parts: tuple[tuple[str, float | None], ...] = ()

    @classmethod
    def parse(cls, line: str) -> Defence:
        """The defence of a line such as "none", "clip=1", "clip=1+noise=0.01", "poisson" or "poisson=25".

        Raises:
            ConfigError: an unknown name, or a number that is missing or out of its range.
        """
        line = line.strip()
        if line == "none":
            return cls(line)
        parts = []
        for each in line.split("+"):
            name, equals, text = each.strip().partition("=")
            if name not in PARTS:
                raise ConfigError(
                    f"Unknown defence {name!r} in {line!r}. Known: none, {', '.join(PARTS)}; such as clip=1+noise=0.01."
                )
            part = PARTS[name]
            try:
                value = float(text) if equals else None
            except ValueError:
                value = math.nan
            given = part.apply is None if value is None else part.low <= value <= part.high and not (part.whole and value % 1)
            if not given:
                kind = "a whole number" if part.whole else "a number"
                raise ConfigError(f"Expected {name}= with {kind} from {part.low:g} to {part.high:g}, got {each.strip()!r}.")
            parts.append((name, value))
        return cls(line, tuple(parts))

    def model(self, model: SpikingNetwork) -> SpikingNetwork:
        """The network that the client trains: with Poisson coding if that is a part, else `model` itself."""
        found = model
        for name, value in self.parts:
            if PARTS[name].apply is None:
                found = poisson_coded(found, None if value is None else int(value))
        return found

    def __call__(self, update: Update, seed: int, key: str) -> Update:
        """The update as it is sent. The draws depend on the seed and on `key`, which names its samples."""
        gradients = update.gradients
        for name, value in self.parts:
            apply = PARTS[name].apply
            if apply is not None and value is not None:
                gradients = apply(gradients, value, (seed, key))
        return replace(update, gradients=gradients)


def poisson_coded(model: SpikingNetwork, steps: int | None = None) -> SpikingNetwork:
    """A copy of a network whose inputs are Poisson-coded over `steps`, or over as many as it has.

    Raises:
        ConfigError: its inputs have another coding than "direct" or "poisson", or a normalisation is tied to its steps.
    """
    spec, steps = model.spec, steps or model.spec.steps
    if spec.encoder not in ("direct", "poisson"):
        raise ConfigError(f"Expected a network of images with direct or Poisson coding, got {spec.encoder!r}.")
    tied = any(isinstance(layer, BatchNormThroughTime) for layer in model.modules())
    if steps != spec.steps and (tied or spec.readout == "bits"):
        raise ConfigError(f"This network is tied to its {spec.steps} steps and does not run in {steps}. Leave the number out.")
    coded = copy.deepcopy(model)
    coded.spec = replace(spec, encoder="poisson", stochastic=True, steps=steps)
    arguments = {**model.architecture.get("arguments", {}), "encoder": "poisson", "steps": steps}
    coded.architecture = {**model.architecture, "arguments": arguments}
    return coded
