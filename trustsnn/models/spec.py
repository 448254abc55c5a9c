"""What a model takes and gives: the frozen description that every audit reads, and the trace of a forward pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from trustsnn.errors import ConfigError

Domain = Literal["image", "events-binary", "events-count"]


@dataclass(frozen=True)
class ModelSpec:
    """The model contract in values.

    `domain`: "image" (values in [0, 1], input_shape (C, H, W)), "events-binary" (values in {0, 1}) or "events-count"
    (integers up to `max_count`), both with input_shape (T, 2, H, W). A batch is [B, *input_shape].
    """

    domain: Domain
    input_shape: tuple[int, ...]
    classes: int
    steps: int
    encoder: str
    readout: str
    stochastic: bool
    max_count: int | None = None
    reset: str = "every forward"

    def __post_init__(self) -> None:
        if self.domain not in get_args(Domain):
            raise ConfigError(f"Expected a domain of {get_args(Domain)}, got {self.domain!r}.")
        for name in ("classes", "steps"):
            if type(getattr(self, name)) is not int:
                raise ConfigError(f"Expected a whole number of {name}, got {getattr(self, name)!r}.")
        if self.classes < 2:
            raise ConfigError(f"Expected at least 2 classes, got {self.classes}.")
        if self.steps < 1:
            raise ConfigError(f"Expected at least 1 time step, got {self.steps}.")
        if (self.domain == "events-count") != (self.max_count is not None):
            raise ConfigError(f"max_count belongs to the domain 'events-count' and to no other; got {self.max_count}.")
        if not all(type(n) is int and n > 0 for n in self.input_shape):
            raise ConfigError(f"Expected an input shape of positive whole numbers, got {tuple(self.input_shape)}.")
        object.__setattr__(self, "input_shape", tuple(self.input_shape))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "input_shape": list(self.input_shape)}


@dataclass(frozen=True)
class Trace:
    """What happened in a forward pass, step by step.

    logits: [T, B, K], the readout at each step; their mean over T is what `forward` returns.
    spike_counts: for each spiking layer by name, spikes over all steps, [B, ...neurons].
    membrane: [T, B, K] at the readout, before its spike where it spikes.
    """

    logits: Tensor
    spike_counts: dict[str, Tensor]
    membrane: Tensor

    @property
    def steps(self) -> int:
        return len(self.logits)
