"""The rounds of a federation, from the first or from where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from copy import deepcopy
from pathlib import Path
from typing import Any

from trustsnn.attacks.integrity.backdoor import success
from trustsnn.data import Dataset
from trustsnn.defenses.dp.gradients import refuse_unfit_layers
from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import added, arrays_of, load_arrays
from trustsnn.federated.client import statistics
from trustsnn.federated.collect import ClientPrivate, Collector, Plain, Summed
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.costs import round_cost
from trustsnn.federated.exchange import Exchange
from trustsnn.federated.foreign import is_foreign
from trustsnn.federated.poison import BACKDOORS, TARGET, check_kind, stamp_of
from trustsnn.federated.rounds import Rounds, resume, write
from trustsnn.keys import Key
from trustsnn.models.network import SpikingNetwork
from trustsnn.training import accuracy


class Server:
    """Asks clients, combines what they send, and keeps every round.

    Args:
        start: the network of round 0.
        folder: where the state after each round goes; one that is there is taken up.
        test: samples on which the global model is measured after each round; nothing is chosen by it.
        told: called with the row of each finished round.
        keep: whether the global model of every round is kept in `folder`, for an audit.
        look: the rounds of which what each client sent is kept as well, as the server sees it.
        key: seals what goes into `folder`.
        timeout: seconds that a round waits for its clients; those that have not answered by then are left out.
    """

    def __init__(
        self, config: FederatedConfig, start: SpikingNetwork, folder: Path, *, test: Dataset | None = None,
        told: Callable[[dict[str, Any]], None] = lambda row: None, keep: bool = False, look: Collection[int] = (),
        timeout: float = 3600.0, key: Key | None = None,
    ) -> None:  # fmt: skip
        self.keep, self.look = keep, look
        self.config, self.folder, self.test, self.told, self.timeout = config, folder, test, told, timeout
        self.start, self.key = start, key
        staying = statistics(start) if config.statistics == "local" else set()
        first = arrays_of(start, staying)
        self.shapes = {name: array.shape for name, array in first.items()}
        self.staying = {name: array for name, array in arrays_of(start).items() if name in staying}
        for client, kind in config.poison.items():
            check_kind(kind)
            if not 0 <= client < config.clients:
                raise ConfigError(f"Expected bad clients from 0 to {config.clients - 1}, got {client}.")
        self.fleet = config.devices()
        if self.fleet is not None and any(each.steps not in (None, start.spec.steps) for each in self.fleet.devices):
            _check_steps(config.architecture)
        if is_foreign(config.architecture):
            _check_foreign(config)
        elif config.privacy is not None and config.privacy.unit == "sample":
            refuse_unfit_layers(start)
        self.rounds = resume(folder, config.sha256, key) or Rounds(0, first)
        self.collector: Collector
        if config.privacy is not None and config.privacy.unit == "client":
            self.collector = ClientPrivate(config, self.shapes, folder, self.rounds.rows)
        elif config.secure is not None:
            self.collector = Summed(config, self.shapes, folder)
        else:
            self.collector = Plain(config, self.shapes, folder)

    def run(self, grid: Any) -> Rounds:
        """Every round that is not yet there."""
        exchange = Exchange(grid, self.timeout)
        clients = self.rounds.clients = exchange.meet(self.config.clients, self.rounds.clients)
        while self.rounds.round < self.config.rounds:
            clients |= exchange.greet(self.config.clients)[0]  # who came back; a stranger among them stops nobody
            row = self._round(exchange, self.rounds.round + 1, clients)
            self.rounds.rows.append(row)
            self.rounds.round += 1
            self.rounds.save(self.folder, self.config.sha256, self.key)
            self.told(row)
        if self.keep:
            write(
                self.folder / f"global-{self.rounds.round:05d}.safetensors",
                self.rounds.arrays,
                {"round": self.rounds.round},
                self.key,
            )
        return self.rounds

    def network(self) -> SpikingNetwork:
        """The global model after the last round."""
        model = deepcopy(self.start)
        load_arrays(model, {**self.staying, **self.rounds.arrays})
        return model.eval()

    def _round(self, exchange: Exchange, round_: int, clients: dict[int, dict[str, Any]]) -> dict[str, Any]:
        begun = time.perf_counter()
        exchange.traffic.clear()
        cohort = self.collector.cohort(round_, clients)
        turns = {} if self.fleet is None else self.fleet.turns(round_, cohort)
        here = [client for client in cohort if client not in turns or turns[client].answers]
        exchange.epochs = {
            client: turn.epochs(self.config.local.epochs) for client, turn in turns.items() if turn.reason and turn.answers
        }
        if self.keep:
            write(self.folder / f"global-{round_ - 1:05d}.safetensors", self.rounds.arrays, {"round": round_ - 1}, self.key)
        exchange.seen = {} if round_ in self.look else None
        found = self.collector.collect(exchange, round_, here, self.rounds.arrays)
        for client, sent in (exchange.seen or {}).items():
            write(
                self.folder / f"seen-{round_:05d}-{client:05d}.safetensors", sent, {"round": round_, "client": client}, self.key
            )
        found.failed |= {client: turn.reason for client, turn in turns.items() if not turn.answers}
        traffic = {client: list(each) for client, each in exchange.traffic.items()}
        if found.update is not None:
            self.rounds.arrays = added(self.rounds.arrays, found.update, self.config.server_rate)
        row: dict[str, Any] = {
            "round": round_, "asked": cohort, "combined": found.used, "clients": _named(found.told), "failed": _named(found.failed),
            "refused": _named(found.refused), "capped": _named(found.capped),
        }  # fmt: skip
        for client, (down, up) in traffic.items():
            radio = round_cost([], 1, self.config.costs, samples=0, epochs=0, received=down, sent=up)
            told = row["clients"].setdefault(str(client), {})
            told |= {"bytes_down": down, "bytes_up": up, "radio_joules": radio.radio_joules}
        row["own"] = self._judged(exchange, round_, clients)
        if found.privacy is not None:
            row["privacy"] = found.privacy
        if self.test is not None and not self.staying:
            row["test"] = dict(accuracy(self.network(), self.test, seed=self.config.seed))
            if any(kind in BACKDOORS for kind in self.config.poison.values()):
                row["backdoor"] = dict(success(self.network(), self.test, stamp_of(self.test), TARGET, seed=self.config.seed))
        row["seconds"] = time.perf_counter() - begun
        return row

    def _judged(self, exchange: Exchange, round_: int, clients: dict[int, dict[str, Any]]) -> dict[str, list[int]]:
        """Of each client that says so, how many of the samples that it holds out are right, and how many they are."""
        holding = [client for client, told in sorted(clients.items()) if told["held"]]
        answers = exchange.ask("evaluate", holding, self.rounds.arrays, {"round": round_}).answers if holding else {}
        found = {client: [answers[client].told.get(name) for name in ("successes", "count")] for client in answers}
        return _named({
            client: [right, count]
            for client, (right, count) in found.items()
            if type(right) is int and count == clients[client]["held"] and 0 <= right <= count
        })  # fmt: skip


def _check_foreign(config: FederatedConfig) -> None:
    """ConfigError for what takes a network whose layers are known."""
    name, fleet = config.architecture["name"], config.fleet
    wanted = {
        "privacy of samples": config.privacy is not None and config.privacy.unit == "sample",
        "hardware twins": fleet is not None and bool(fleet.twins),
        "devices with other numbers of time steps": fleet is not None and bool(fleet.steps),
    }
    if refused := [what for what, asked in wanted.items() if asked]:
        raise ConfigError(
            f"Expected a bundled network for {', '.join(refused)}, got the module of {name}. See: trustsnn list models"
        )


def _check_steps(architecture: dict[str, Any]) -> None:
    """ConfigError for a network whose tensors depend on its number of time steps, which devices with other numbers could not share."""
    if architecture["arguments"].get("norm") == "bntt":
        raise ConfigError(
            "Devices with other numbers of time steps cannot share statistics for each step (norm bntt). Choose norm batch."
        )


def _named(values: dict[int, Any]) -> dict[str, Any]:
    """By the clients' numbers as text, as JSON has it, in their order."""
    return {str(client): values[client] for client in sorted(values)}
