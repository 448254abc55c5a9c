"""The fleet: what each device of a federation is like, and what it gets done in a round. All of it is drawn from one seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import Arrays
from trustsnn.rng import stream

Share = Annotated[float, Field(gt=0, le=1)]
Chance = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Value = TypeVar("Value")
Model = TypeVar("Model", bound=BaseModel)

_REST: dict[str, Any] = {
    "dropout": 0.0, "stragglers": 0.0, "straggler_work": 0.0, "joins": 1, "steps": None, "slowdown": 1.0, "twins": None,
    "noise": 0.0,
}  # fmt: skip


class FleetSettings(BaseModel):
    """What devices are like: for each trait one value for all of them, or values each with its share of the devices, such as
    `steps: {4: 0.5, 8: 0.5}`. Devices that the shares leave out have the value at the end of the trait's line.

    dropout: chance that a device does not answer in a round; 0.
    stragglers: chance that it is not done when a round closes; 0.
    straggler_work: share of its local epochs that a straggler has done by then, from which it sends its update; 0: its update is lost, as
        in FedSNN (Venkatesha 2021). A part of the work is FedProx's straggler (Li 2020, arXiv 1812.06127).
    joins: the first round, from 1, that it takes part in; 1.
    steps: its number of time steps T; the network's.
    slowdown: how many times longer it computes than `trustsnn.federated.costs` says; 1.
    twins: the hardware twin that it runs on, such as "pcm@1month" (`trustsnn list twins`); none.
    noise: Gaussian noise on its update as it is sent, in each tensor this many times the mean of its absolute values, as FedSNN tries it; 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dropout: dict[Chance, Share] = {}
    stragglers: dict[Chance, Share] = {}
    straggler_work: dict[Chance, Share] = {}
    joins: dict[Whole, Share] = {}
    steps: dict[Whole, Share] = {}
    slowdown: dict[Factor, Share] = {}
    twins: dict[str, Share] = {}
    noise: dict[Annotated[float, Field(ge=0, allow_inf_nan=False)], Share] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return {value: 1.0} if isinstance(value, int | float | str) and not isinstance(value, bool) else value

    @field_validator("*")
    @classmethod
    def _whole(cls, value: dict[Any, float]) -> dict[Any, float]:
        if math.fsum(value.values()) > 1 + 1e-9:
            raise ValueError(f"expected shares that add up to 1 at most, got {math.fsum(value.values()):g}")
        return dict(sorted(value.items()))

    @field_validator("twins")
    @classmethod
    def _twins(cls, value: dict[str, float]) -> dict[str, float]:
        if value:
            from trustsnn.hardware.choose import parse

            for line in value:
                parse(line)
        return value


def settings_of(kind: type[Model], given: Mapping[str, Any], where: str) -> Model:
    """Validated settings of a kind such as `FleetSettings`; ConfigError names each that is wrong, and says where."""
    try:
        return kind(**given)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{where}: {_explain(error)}. Known keys: {', '.join(kind.model_fields)}.") from error


@dataclass(frozen=True)
class Device:
    """One client's device; each trait as in `FleetSettings`. `steps` and `twin` are None for the network's own and for none."""

    client: int
    dropout: float
    straggling: float
    straggler_work: float
    first_round: int
    steps: int | None
    slowdown: float
    twin: str | None
    noise: float


@dataclass(frozen=True)
class Turn:
    """What a device gets done in a round: the share of its local epochs whose result arrives, and why it is not all of them: "not joined",
    "dropped out", "straggler" or nothing."""

    work: float
    reason: str = ""

    @property
    def answers(self) -> bool:
        """Whether an update arrives."""
        return self.work > 0

    def epochs(self, local: int) -> int:
        """Of so many local epochs those that it does, whole ones, at least one where an update arrives."""
        return max(1, math.floor(self.work * local + 1e-9)) if self.answers else 0


@dataclass(frozen=True)
class Fleet:
    """The devices of a federation by client, and the seed that their rounds are drawn from."""

    devices: tuple[Device, ...]
    seed: int

    @staticmethod
    def draw(settings: FleetSettings, clients: int, seed: int) -> Fleet:
        """The fleet of these settings: of each trait as many devices as its shares say (largest remainders), which ones is drawn, each
        trait apart from the others."""
        columns = [_dealt(getattr(settings, trait), rest, clients, seed, trait) for trait, rest in _REST.items()]
        rows = enumerate(zip(*columns, strict=True))
        return Fleet(tuple(Device(client, *row) for client, row in rows), seed)

    def noisy(self, update: Arrays, round_: int, client: int) -> Arrays:
        """An update as its device sends it in a round: U + noise mean(|U|) N(0, 1), tensor by tensor (FedSNN, Venkatesha 2021)."""
        strength = self.devices[client].noise
        if strength == 0:
            return update
        draws = stream(self.seed, f"fleet/noise/{round_}", str(client))
        return {
            name: np.asarray(value + np.float32(strength * np.abs(value).mean()) * draws.standard_normal(value.shape, np.float32))
            for name, value in sorted(update.items())
        }

    def turn(self, round_: int, client: int) -> Turn:
        """What a client gets done in a round, from 1: of the seed, the round and the client alone, whoever else is asked."""
        device = self.devices[client]
        drop, late = stream(self.seed, f"fleet/round/{round_}", str(client)).random(2)
        if round_ < device.first_round:
            return Turn(0.0, "not joined")
        if drop < device.dropout:
            return Turn(0.0, "dropped out")
        return Turn(device.straggler_work, "straggler") if late < device.straggling else Turn(1.0)

    def turns(self, round_: int, clients: Iterable[int]) -> dict[int, Turn]:
        """The turns of those that are asked, by client."""
        return {client: self.turn(round_, client) for client in sorted(clients)}


def by_share(shares: Mapping[Value, float], rest: Value, count: int) -> list[Value]:
    """`count` values in these shares, one kind after the other; what they leave is `rest`. Each kind has its share of the count, rounded by
    largest remainders, earlier ones first where they tie."""
    left = 1 - math.fsum(shares.values())
    kinds = [*shares.items(), *([(rest, left)] if left > 1e-9 else [])]
    whole = [math.floor(share * count + 1e-9) for _, share in kinds]
    order = sorted(range(len(kinds)), key=lambda place: (round(whole[place] - kinds[place][1] * count, 9), place))
    for place in order[: count - sum(whole)]:
        whole[place] += 1
    return [value for (value, _), number in zip(kinds, whole, strict=True) for _ in range(number)]


def _dealt(shares: Mapping[Value, float], rest: Value, count: int, seed: int, trait: str) -> list[Value]:
    """The values of a trait by client."""
    values = by_share(shares, rest, count)
    return [values[place] for place in stream(seed, f"fleet/{trait}").permutation(np.arange(count))]


def _explain(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    parts = []
    for problem in error.errors():
        message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
        parts.append(f"{problem['loc'][0]}: {message}, got {problem['input']!r}")
    return "; ".join(parts)
