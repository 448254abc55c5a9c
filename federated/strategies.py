"""From the updates of a round to one: Flower's strategies, which see only what `trustsnn.federated.validation` lets through.

The updates come in the order of the clients' numbers, so that the sum does not depend on who answered first.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import Arrays
from trustsnn.federated.catalogue import STRATEGIES
from trustsnn.federated.flower import flower
from trustsnn.settings import check_settings, from_line, setting


@dataclass(frozen=True)
class Strategy:
    """How updates become one. `least` is the number of them below which it cannot be used."""

    flowers: ClassVar[str]

    def __post_init__(self) -> None:
        check_settings(self, f"strategy {type(self).__name__.lower()!r}")

    @property
    def least(self) -> int:
        """The fewest updates that it can be used on."""
        return 1

    def arguments(self, count: int) -> dict[str, Any]:
        """Of Flower's class, for `count` updates."""
        return {}

    def combine(self, updates: Mapping[int, Arrays], samples: Mapping[int, int]) -> Arrays:
        """One update of all, weighted by samples where the strategy weights. ConfigError for fewer than `least`."""
        if len(updates) < self.least:
            raise ConfigError(
                f"The strategy {type(self).__name__.lower()} needs the updates of {self.least} clients, got {len(updates)}. Ask more clients, "
                "or say fewer malicious ones."
            )
        app = flower("app")
        names = sorted(next(iter(updates.values())))
        answers = [
            _Reply(
                app.RecordDict({
                    "arrays": app.ArrayRecord({name: app.Array(updates[client][name]) for name in names}),
                    "metrics": app.MetricRecord({"num-examples": samples[client]}),
                })
            )
            for client in sorted(updates)
        ]  # fmt: skip
        with _silent(), _collected(), np.errstate(over="ignore", invalid="ignore"):
            kind = getattr(flower("serverapp.strategy"), self.flowers)
            found, _ = kind(**self.arguments(len(updates))).aggregate_train(1, answers)
        return {name: np.asarray(found[name].numpy(), dtype=np.float32) for name in names}


@dataclass(frozen=True)
class FedAvg(Strategy):
    """The mean, weighted by samples (McMahan et al. 2017)."""

    flowers = "FedAvg"


@dataclass(frozen=True)
class FedMedian(Strategy):
    """The median of each value (Yin et al. 2018). No weights."""

    flowers = "FedMedian"


@dataclass(frozen=True)
class FedTrimmedAvg(Strategy):
    """The mean of each value without the share `beta` of the smallest and of the largest (Yin et al. 2018). No weights."""

    beta: float = setting(0.2, 0.0, 0.49)
    flowers = "FedTrimmedAvg"

    def arguments(self, count: int) -> dict[str, Any]:
        """`beta`."""
        return {"beta": self.beta}


@dataclass(frozen=True)
class Krum(Strategy):
    """The one update that is nearest to its neighbours, of whom `malicious` may lie (Blanchard et al. 2017)."""

    malicious: int = setting(1, 0)
    flowers = "Krum"

    @property
    def least(self) -> int:
        """2 f + 3."""
        return 2 * self.malicious + 3

    def arguments(self, count: int) -> dict[str, Any]:
        """`malicious`."""
        return {"num_malicious_nodes": self.malicious}


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The weighted mean of the n - f - 2 updates that are nearest to their neighbours, f being `malicious` (Blanchard et al. 2017): so many may
    be kept (Damaskinos et al. 2019, AggregaThor)."""

    flowers = "MultiKrum"

    def arguments(self, count: int) -> dict[str, Any]:
        """`malicious`, and how many are kept."""
        return {**super().arguments(count), "num_nodes_to_select": count - self.malicious - 2}


@dataclass(frozen=True)
class Bulyan(Krum):
    """Multi-Krum's choice, then the mean of the values nearest to the median (Mhamdi et al. 2018)."""

    flowers = "Bulyan"

    @property
    def least(self) -> int:
        """4 f + 3."""
        return 4 * self.malicious + 3


def strategy(text: str) -> Strategy:
    """The strategy of a line such as "fedavg" or "krum:malicious=2". ConfigError for one that there is not."""
    found: Strategy = from_line("strategy", STRATEGIES, text, "krum:malicious=2")
    return found


class _Reply(NamedTuple):
    """What a strategy looks at of a message: a Message itself can only be made within a run."""

    content: Any

    def has_error(self) -> bool:
        return False


@contextmanager
def _collected() -> Iterator[None]:
    """Flower's Bulyan collects garbage once for each client, a tenth of a second or more: what is there already is left out of it."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _silent() -> Iterator[None]:
    """Without a line of Flower's for each round."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
