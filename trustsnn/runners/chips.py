"""The chips that an audit evaluates, as part of its plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from trustsnn.hardware.choose import parse
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip, Twin
from trustsnn.models.network import SpikingNetwork

Maker = Literal["network", "chip"]


@dataclass(frozen=True)
class Chips:
    """Some chips of one kind. `line` is how the user named the kind; `maker` is what adversarial samples are made on: the network, or the
    first chip."""

    line: str
    twins: tuple[Twin, ...]
    count: int
    seed: int
    maker: Maker | None = None

    @classmethod
    def of(cls, line: str, count: int, seed: int) -> Chips:
        """The chips that a line such as "pcm@1month" names; one, where no chip differs from the next."""
        twins = parse(line)
        return cls(line, twins, count if any(twin.stochastic for twin in twins) else 1, seed)

    def chip(self, network: SpikingNetwork, number: int) -> SpikingNetwork:
        """The network as one of the chips runs it."""
        return deploy(network, self.twins, Chip(number, self.seed))

    def describe(self) -> dict[str, Any]:
        """As the twin of a cell."""
        parts = [twin.describe() for twin in self.twins]
        return {"line": self.line, "parts": parts, "chips": self.count, "maker": self.maker}
