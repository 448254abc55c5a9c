"""What a federation is: one JSON file that the server and every client read. Nothing in it is ever executed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trustsnn.canonical import sha256_of
from trustsnn.defenses.dp import PrivacyConfig
from trustsnn.errors import ConfigError
from trustsnn.federated.coding import parse as compression
from trustsnn.federated.costs import CostSettings
from trustsnn.federated.dealing import parse as partition
from trustsnn.federated.devices import Fleet, FleetSettings
from trustsnn.federated.losses import CrossEntropy, loss
from trustsnn.federated.strategies import strategy
from trustsnn.files import write_text
from trustsnn.rng import stream
from trustsnn.training import TrainConfig

FORMAT = "trustsnn-federation/1"


class Settings(BaseModel):
    """Unknown keys are refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Local(Settings):
    """How a client trains in a round; a fresh optimizer each time. The learning rate is that of the first round: it falls to `last_rate`
    times that along a cosine over the rounds, and stays within one."""

    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0)
    last_rate: float = Field(default=0.1, gt=0, le=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    augmentation: str = "none"


class Limits(Settings):
    """What the validation layer lets through; see `trustsnn.federated.validation`."""

    on: bool = True
    norm: float | None = Field(default=None, gt=0)
    norm_ratio: float = Field(default=10.0, gt=1)
    samples: int | None = Field(default=None, ge=1)
    samples_ratio: float = Field(default=3.0, ge=1)


class Privacy(Settings):
    """What is protected, a client or a sample of one, and how well: eps for all rounds together, or the noise multiplier sigma; see
    `trustsnn.defenses.dp.PrivacyConfig`. `budget`: the eps beyond which no round is run; by default none is set.

    adaptive: the clip follows the `quantile` of the clients' norms, by the rate `clip_rate`; of clients alone.
    """

    unit: Literal["client", "sample"] = "client"
    eps: float | None = Field(default=None, gt=0)
    sigma: float | None = Field(default=None, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    accountant: Literal["prv", "rdp"] = "prv"
    seeded: bool = False
    budget: float | None = Field(default=None, gt=0)
    adaptive: bool = False
    quantile: float = Field(default=0.5, ge=0, le=1)
    clip_rate: float = Field(default=0.2, gt=0)

    def asked(self) -> PrivacyConfig:
        """As the accountants take it."""
        names = ("eps", "sigma", "delta", "clip", "accountant", "seeded")
        return PrivacyConfig(**{name: getattr(self, name) for name in names})


class Secure(Settings):
    """Secure aggregation: the server learns the sum of a round's updates and no update; see `trustsnn.federated.secure`.

    threshold: share of the asked clients that must answer each stage, above a half. clip: every value of an update is cut to [-clip, clip].
    max_weight: the largest number of samples that a client counts for; 1 weighs all clients the same.
    """

    threshold: float = Field(default=0.67, gt=0.5, le=1)
    clip: float = Field(default=8.0, gt=0)
    bits: int = Field(default=24, ge=2, le=32)
    max_weight: int = Field(default=10_000, ge=1)


class FederatedConfig(Settings):
    """The settings of a federation.

    architecture: name and arguments of a bundled network, as in a checkpoint's config.json.
    data: a data-set name or a path; `partition` says who owns what, such as "iid", "dirichlet:0.5", "shards:2", or "folders" where each
        client has a folder of its own in it.
    classes: their names, by which a device with samples of its own labels them.
    holdout: share of each client's samples that it does not train on: its own accuracy is measured there.
    fraction: of the clients that are asked in a round.
    statistics: whether the running statistics of batch norms travel ("aggregated") or stay where they are ("local").
    compression: of the updates on their way up, such as "top-k:0.01"; see `trustsnn.federated.coding`.
    fleet: what the clients' devices are like; all alike and always there by default.
    costs: what is assumed of energy and radio.
    poison: bad clients by number, each with what it does; see `trustsnn.federated.poison`.
    start: the hash of the weights of round 0.
    """

    architecture: dict[str, Any]
    start: str
    data: str
    classes: tuple[str, ...] = ()
    clients: int = Field(default=20, ge=1)
    partition: str = "dirichlet:0.5"
    holdout: float = Field(default=0.1, ge=0, lt=1)
    rounds: int = Field(default=30, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    local: Local = Local()
    loss: str = "cross-entropy"
    strategy: str = "fedavg"
    server_rate: float = Field(default=1.0, gt=0)
    statistics: Literal["aggregated", "local"] = "aggregated"
    limits: Limits = Limits()
    compression: str = "none"
    privacy: Privacy | None = None
    secure: Secure | None = None
    fleet: FleetSettings | None = None
    costs: CostSettings = CostSettings()
    poison: dict[int, str] = {}
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _named(self) -> Self:
        """What the lines of text name is there, and goes together: else every client would fail, in every round."""
        for read, line in ((strategy, self.strategy), (loss, self.loss), (compression, self.compression)):
            read(line)
        if self.partition != "folders":
            partition(self.partition)
        self.training(0, 1)
        if self.privacy is not None:
            self.privacy.asked()
            if self.privacy.unit == "sample" and not isinstance(loss(self.loss), CrossEntropy):
                raise ConfigError(
                    f"Privacy of samples clips the gradient of each on its own: it goes with cross-entropy, not with {self.loss!r}."
                )
        return self

    @property
    def sha256(self) -> str:
        """What tells one federation from another."""
        return sha256_of(self.model_dump(mode="json"))

    @property
    def asked(self) -> int:
        """How many clients are asked in a round."""
        return max(1, round(self.fraction * self.clients))

    def devices(self) -> Fleet | None:
        """The clients' devices, drawn from the seed; None where all are alike."""
        return None if self.fleet is None else Fleet.draw(self.fleet, self.clients, self.seed)

    def training(self, client: int, round_: int) -> TrainConfig:
        """How that client trains in that round, from 1; the seed is its own."""
        part = (round_ - 1) / max(1, self.rounds - 1)
        low = self.local.last_rate
        rate = self.local.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * part)))
        seed = int(stream(self.seed, f"local/{round_}", str(client)).integers(2**31))
        given = self.local.model_dump(exclude={"learning_rate", "last_rate"})
        return TrainConfig(**given, learning_rate=rate, schedule="constant", seed=seed)

    def cohort(self, round_: int) -> list[int]:
        """The clients that are asked in a round, sorted: a draw of the seed and the round alone."""
        count = self.asked
        if count == self.clients:
            return list(range(self.clients))
        return sorted(stream(self.seed, f"cohort/{round_}").choice(self.clients, count, replace=False).tolist())

    def write(self, path: Path) -> None:
        """As JSON, atomically."""
        write_text(path, json.dumps({"format": FORMAT, **self.model_dump(mode="json")}, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def read(path: Path) -> FederatedConfig:
        """Of a file that `write` made. ConfigError for any other."""
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
                raise ConfigError(
                    f"Expected a federation in {path} (format {FORMAT!r}). Write one with: trustsnn federate app DIR"
                )
        except (OSError, ValueError) as error:
            raise ConfigError(f"Could not read the federation {path}: {error}.") from error
        return parsed(found, str(path))


def parsed(given: dict[str, Any], where: str) -> FederatedConfig:
    """Settings as a FederatedConfig; ConfigError with one line for each that is wrong."""
    try:
        return FederatedConfig(**given)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}" for each in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines) + ".") from error
