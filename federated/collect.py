"""From a cohort to one update: plainly behind the validation layer, or with a guarantee for every client."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trustsnn.defenses.dp.noise import Randomness, Secret, Seeded
from trustsnn.errors import ConfigError, TrustSNNError
from trustsnn.federated import privacy as dp
from trustsnn.federated.arrays import Arrays
from trustsnn.federated.coding import parse as compression
from trustsnn.federated.compression import decompress
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.exchange import Exchange, Replies
from trustsnn.federated.ledger import FEDERATION, Charge, Ledger
from trustsnn.federated.strategies import strategy
from trustsnn.federated.summing import rounding, secure_sum, settings_of
from trustsnn.federated.validation import Answer, Verdict, unfit, validate

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Collected:
    """What came of asking a cohort: the update, or None where too few were left, what the clients told, and who is not in it and why."""

    update: Arrays | None
    used: int
    told: dict[int, dict[str, Any]]
    failed: dict[int, str]
    refused: dict[int, str] = field(default_factory=dict)
    capped: dict[int, str] = field(default_factory=dict)
    privacy: dict[str, Any] | None = None


class Collector(Protocol):
    """A way to get from the global model to its update in a round."""

    def cohort(self, round_: int, clients: Mapping[int, Mapping[str, Any]]) -> list[int]:
        """Who is asked, of the clients with what each said of itself."""

    def collect(self, exchange: Exchange, round_: int, cohort: list[int], arrays: Arrays) -> Collected:
        """Ask them."""


class Plain:
    """Every update on its own, behind the validation layer, to one of Flower's strategies."""

    def __init__(self, config: FederatedConfig, shapes: Shapes, folder: Path) -> None:
        self.config, self.shapes = config, shapes
        self.strategy = strategy(config.strategy)
        self.ledger = ledger_of(config, folder) if config.privacy is not None else None

    def cohort(self, round_: int, clients: Mapping[int, Mapping[str, Any]]) -> list[int]:
        """A share of the clients, but those that have spent what their samples may; the others are charged."""
        cohort = self.config.cohort(round_)
        if self.ledger is None:
            return cohort
        charges = {f"client {client}": self.charge(int(clients[client]["num-examples"])) for client in cohort}
        attempt = attempt_of(self.ledger, self.config, round_)
        within = set(self.ledger.charged(round_, attempt))  # of this round, by a run that was killed in it
        if not within and (within := set(self.ledger.affordable(charges))):
            self.ledger.charge(round_, {account: charges[account] for account in sorted(within)}, attempt)
        return [client for client in cohort if f"client {client}" in within]

    def charge(self, samples: int) -> Charge:
        """What a round costs the samples of a client that has so many."""
        return sample_charge(self.config, samples)

    def collect(self, exchange: Exchange, round_: int, cohort: list[int], arrays: Arrays) -> Collected:
        """The strategy's update of those that are let through."""
        replies = exchange.ask("train", cohort, arrays, {"round": round_}) if cohort else Replies()
        answers, unreadable = answers_of(replies, self.config, self.shapes)
        verdict = self._sort(answers)
        enough = len(verdict.updates) >= self.strategy.least and sum(verdict.samples.values()) != 0
        update = self.strategy.combine(verdict.updates, verdict.samples) if enough else None
        return Collected(
            update, len(verdict.updates) if enough else 0, told_of(replies), replies.failed, {**unreadable, **verdict.refused},
            verdict.capped, self.spent(),
        )  # fmt: skip

    def spent(self) -> dict[str, Any] | None:
        """The eps of each client's samples; None without privacy."""
        return None if self.ledger is None else {"eps": self.ledger.spent()}

    def _sort(self, answers: dict[int, Answer]) -> Verdict:
        if self.config.limits.on:
            return validate(answers, self.shapes, self.config.limits)
        unfitting = {client: unfit(answers[client], self.shapes) for client in sorted(answers)}
        taken = {client: answers[client] for client, reason in unfitting.items() if reason is None}
        refused = {client: reason for client, reason in unfitting.items() if reason is not None}
        return Verdict({c: dict(a.update) for c, a in taken.items()}, {c: a.samples for c, a in taken.items()}, refused, {})


class Summed(Plain):
    """The sum of all updates, of which the server sees none: a mean by samples, without a validation layer, which could not look."""

    def __init__(self, config: FederatedConfig, shapes: Shapes, folder: Path) -> None:
        if config.strategy != "fedavg" or config.compression != "none":
            raise ConfigError(
                "Secure aggregation gives a sum alone: it goes with fedavg and without compression, not with "
                f"{config.strategy!r} and {config.compression!r}."
            )
        settings_of(config)
        super().__init__(config, shapes, folder)

    def collect(self, exchange: Exchange, round_: int, cohort: list[int], arrays: Arrays) -> Collected:
        """The mean of those that stayed to the end, or None where too few did."""
        total, told, failed = secure_sum(exchange, self.config, self.shapes, round_, cohort, arrays)
        if total is None or total.weight == 0:
            return Collected(None, 0, told, failed, privacy=self.spent())
        return Collected(total.mean(), len(total.clients), told, failed, privacy=self.spent())


class ClientPrivate:
    """DP-FedAvg: Poisson-sampled clients, clipped updates, noise on their sum; charged to the ledger before a round runs.

    With secure aggregation the server sees their sum alone, and every client clips for itself."""

    def __init__(self, config: FederatedConfig, shapes: Shapes, folder: Path, rows: list[dict[str, Any]]) -> None:
        """`rows` are those of the rounds so far, from which an adaptive clip goes on."""
        assert config.privacy is not None
        if config.strategy != "fedavg":
            raise ConfigError(f"Privacy of clients needs their plain sum: it goes with fedavg, not with {config.strategy!r}.")
        if config.secure is not None and (config.fraction < 1 or config.privacy.adaptive):
            raise ConfigError(
                "Privacy of clients under secure aggregation needs every client in every round and a clip that stays: set fraction to 1, and "
                "adaptive to false."
            )
        given, self.config, self.shapes, self.rows = config.privacy, config, shapes, rows
        self.source: Randomness = Seeded(config.seed) if given.seeded else Secret()
        self.promise = dp.client_guarantee(
            given.asked(), clients=config.clients, rate=config.fraction, rounds=config.rounds, randomness=self.source.name
        )
        self.adaptive = dp.AdaptiveClip(quantile=given.quantile, learning_rate=given.clip_rate) if given.adaptive else None
        self.expected = config.fraction * config.clients
        if self.adaptive is not None:
            dp.sum_multiplier(self.promise.sigma, self.adaptive.deviation(self.expected))  # refused before a round has run
        self.ledger = ledger_of(config, folder)

    def cohort(self, round_: int, clients: Mapping[int, Mapping[str, Any]]) -> list[int]:
        """Each client by the toss of a coin, after the round is charged."""
        charge = Charge(self.promise.sigma, self.promise.rate)
        self.ledger.charge(round_, {FEDERATION: charge}, attempt_of(self.ledger, self.config, round_))
        return dp.sampled(range(self.config.clients), self.promise.rate, self.source, round_)

    def collect(self, exchange: Exchange, round_: int, cohort: list[int], arrays: Arrays) -> Collected:
        """The noisy mean of the clipped updates: of none it is noise alone."""
        clip = self.rows[-1]["privacy"]["next_clip"] if self.rows else self.promise.clip
        if self.config.secure is not None:
            return self._of_sum(exchange, round_, cohort, arrays, clip)
        replies = exchange.ask("train", cohort, arrays, {"round": round_, "clip": float(clip)}) if cohort else Replies()
        answers, unreadable = answers_of(replies, self.config, self.shapes)
        verdict = validate(answers, self.shapes, self.config.limits.model_copy(update={"norm_ratio": float("inf")}))
        total = dp.clipped_sum(verdict.updates, clip, {name: arrays[name] for name in self.shapes})
        sigma, after, share = self.promise.sigma, clip, None
        if self.adaptive is not None:
            deviation = self.adaptive.deviation(self.expected)
            sigma = dp.sum_multiplier(self.promise.sigma, deviation)
            bits = [replies.answers[client].told.get("within") == 1 for client in verdict.updates]
            share = dp.noisy_share(bits, deviation=deviation, expected=self.expected, source=self.source, server_round=round_)
            after = dp.next_clip(clip, share, self.adaptive)
        update = dp.noisy_mean(total, deviation=sigma * clip, expected=self.expected, source=self.source, server_round=round_)
        said = {"eps": self.ledger.eps(FEDERATION), "clip": clip, "next_clip": after, "share_within": share}
        return Collected(
            update, len(verdict.updates), told_of(replies), replies.failed, {**unreadable, **verdict.refused}, {}, said
        )

    def _of_sum(self, exchange: Exchange, round_: int, cohort: list[int], arrays: Arrays, clip: float) -> Collected:
        """The same of a sum that is all the server learns. Too few clients give no sum, and the round releases nothing."""
        summed, told, failed = secure_sum(exchange, self.config, self.shapes, round_, cohort, arrays, clip)
        said = {"eps": self.ledger.eps(FEDERATION), "clip": clip, "next_clip": clip, "share_within": None}
        if summed is None:
            return Collected(None, 0, told, failed, privacy=said)
        slack = clip + rounding(self.config, self.shapes)
        update = dp.noisy_mean(
            summed.sums, deviation=self.promise.sigma * slack, expected=self.expected, source=self.source, server_round=round_
        )
        return Collected(update, len(summed.clients), told, failed, privacy=said)


def ledger_of(config: FederatedConfig, folder: Path) -> Ledger:
    """The privacy ledger of a federation, in its folder."""
    given = config.privacy
    assert given is not None
    return Ledger(
        folder / "ledger.jsonl", unit=given.unit, delta=given.delta, eps=given.budget, accountant=given.accountant,
        run={"federation": config.sha256},
    )  # fmt: skip


def attempt_of(ledger: Ledger, config: FederatedConfig, round_: int) -> int:
    """0, or for a round that was begun before and draws its noise anew the next: clients or the server may have seen what the first released."""
    assert config.privacy is not None
    return 0 if config.privacy.seeded else next(number for number in itertools.count() if not ledger.charged(round_, number))


def sample_charge(config: FederatedConfig, samples: int) -> Charge:
    """What a round of DP-SGD costs a client with so many samples: the noise with which all rounds in which it may be asked stay within eps."""
    assert config.privacy is not None
    return dp.local_charge(
        config.privacy.asked(), samples=samples, batch_size=min(config.local.batch_size, samples), epochs=config.local.epochs,
        rounds=config.rounds,
    )  # fmt: skip


def answers_of(replies: Replies, config: FederatedConfig, shapes: Shapes) -> tuple[dict[int, Answer], dict[int, str]]:
    """The updates in some replies, unpacked, and why those that cannot be read cannot, by client."""
    scheme, found, unreadable = compression(config.compression), {}, {}
    for client, reply in replies.answers.items():
        update = reply.arrays
        if "payload" in reply.record:
            try:
                update = decompress(reply.record["payload"], scheme, shapes)
            except (TrustSNNError, TypeError) as error:
                unreadable[client] = str(error)
                continue
        found[client] = Answer(update, reply.told.get("num-examples"))
    return found, unreadable


def told_of(replies: Replies) -> dict[int, dict[str, Any]]:
    """The figures that clients told, by client."""
    return {client: replies.answers[client].figures() for client in sorted(replies.answers)}
