"""The chips that an audit evaluates, as part of its plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from trustsnn.hardware.choose import parse
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip, Twin
from trustsnn.models.network import SpikingNetwork

Maker = Literal["network", "chip"]
KEPT = 512 << 20  # bytes of chips that a run keeps
ONE_PASS = 32  # chips, at most


class Deployed:
    """The chips of a run as they were deployed: those of one kind at a time, as many as `KEPT` bytes hold. The others are deployed anew
    whenever they are asked for."""

    def __init__(self) -> None:
        self._kind: tuple[Any, ...] = ()
        self._known: dict[int, SpikingNetwork] = {}
        self._bytes = 0

    def chip(self, network: SpikingNetwork, twins: tuple[Twin, ...], chip: Chip) -> SpikingNetwork:
        """The network as the chip runs it."""
        kind = (network, twins, chip.seed)
        if self._kind != kind:
            self._kind, self._known, self._bytes = kind, {}, 0
        if chip.number in self._known:
            return self._known[chip.number]
        found = deploy(network, twins, chip)
        size = sum(tensor.numel() * tensor.element_size() for tensor in found.state_dict().values())
        if self._bytes + size <= KEPT:
            self._known[chip.number], self._bytes = found, self._bytes + size
        return found


@dataclass(frozen=True)
class Chips:
    """Some chips of one kind. `line` is how the user named the kind; `maker` is what adversarial samples are made on: the network, or the
    first chip."""

    line: str
    twins: tuple[Twin, ...]
    count: int
    seed: int
    maker: Maker | None = None
    deployed: Deployed = field(default_factory=Deployed, compare=False, repr=False)

    @classmethod
    def of(cls, line: str, count: int, seed: int, deployed: Deployed | None = None) -> Chips:
        """The chips that a line such as "pcm@1month" names; one, where no chip differs from the next. `deployed` is what kinds of chips
        share."""
        twins = parse(line)
        return cls(line, twins, count if any(twin.stochastic for twin in twins) else 1, seed, deployed=deployed or Deployed())

    def chip(self, network: SpikingNetwork, number: int) -> SpikingNetwork:
        """The network as one of the chips runs it."""
        return self.deployed.chip(network, self.twins, Chip(number, self.seed))

    def groups(self, network: SpikingNetwork) -> Iterator[list[SpikingNetwork]]:
        """All of the chips, some at a time."""
        for start in range(0, self.count, ONE_PASS):
            yield [self.chip(network, number) for number in range(start, min(start + ONE_PASS, self.count))]

    def describe(self) -> dict[str, Any]:
        """As the twin of a cell."""
        parts = [twin.describe() for twin in self.twins]
        return {"line": self.line, "parts": parts, "chips": self.count, "maker": self.maker}
