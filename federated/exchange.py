"""What passes between the server and the clients: one message to each node, and what comes back."""

from __future__ import annotations

import math
import reprlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trustsnn.errors import RunError
from trustsnn.federated.arrays import Arrays
from trustsnn.federated.flower import flower

_WAIT = 600.0  # seconds for all clients to be there
_AGAIN = 60.0  # the same of a federation that is taken up
_LONGEST = 500  # characters of a client's reason that are kept


TRAINS = ("train", "train.masked")
"""The messages upon which a client trains."""


@dataclass(frozen=True)
class Reply:
    """What a client answered: tensors by name, numbers and lists of numbers, bytes and texts."""

    arrays: Arrays
    told: dict[str, Any]
    record: dict[str, Any]

    def figures(self) -> dict[str, float]:
        """The finite numbers that it told of its work, by name. A few, whatever a stranger sends."""
        named = {name: each for name, each in self.told.items() if name.replace("-", "_").isidentifier() and len(name) < 40}
        numbers = {name: each for name, each in sorted(named.items()) if type(each) in (int, float) and math.isfinite(each)}
        return {name: numbers[name] for name in list(numbers)[:30] if name != "client"}


@dataclass
class Replies:
    """Of a question: who answered what, and why those that did not answer failed, by client."""

    answers: dict[int, Reply] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


class Exchange:
    """Questions to clients over a grid of Flower. `timeout`: seconds to wait for the answers to one."""

    def __init__(self, grid: Any, timeout: float) -> None:
        self.grid, self.timeout = grid, timeout
        self.nodes: dict[int, int] = {}
        self.seen: dict[int, Arrays] | None = None
        """Where it is a dictionary: what each client sent upon training, as it came."""
        self.epochs: dict[int, int] = {}
        """How many epochs a client is to train for, where not for all."""
        self.traffic: dict[int, list[int]] = {}
        """Bytes sent to each client and received from it since this was last emptied: of tensors and records, without Flower's framing."""

    def meet(self, clients: int, known: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """Wait for so many clients, and what each says of itself, by client.

        `known` is what they said when the federation began, which is taken up: it goes on without those that stay away for a minute.

        Raises:
            RunError: a client cannot begin, two nodes say that they are the same client, or some do not come in time.
        """
        found = dict(known)
        wait = min(_AGAIN if known else _WAIT, self.timeout)
        ends = time.monotonic() + wait
        while True:
            told, wrong = self.greet(clients, wait)
            if wrong:
                raise RunError(min(wrong))
            found |= told
            if len(self.nodes) == clients or (time.monotonic() > ends and known and self.nodes):
                return found
            if time.monotonic() > ends:
                missing = sorted(set(range(clients)) - set(self.nodes))
                raise RunError(f"Expected {clients} clients; {', '.join(map(str, missing[:10]))} did not come in time.")
            time.sleep(0.2)

    def greet(self, clients: int, wait: float = _AGAIN) -> tuple[dict[int, dict[str, Any]], list[str]]:
        """While clients are missing: what the other nodes say of themselves, by client, and what is wrong with them. Nodes that are gone are
        forgotten: a client may come back with another. `wait`: seconds."""
        here = set(self.grid.get_node_ids())
        self.nodes = {client: node for client, node in self.nodes.items() if node in here}
        new = sorted(here - set(self.nodes.values())) if len(self.nodes) < clients else []
        replies = self._ask("query", {node: node for node in new}, {}, {}, wait) if new else Replies()
        found, wrong = {}, [f"A client could not begin: {reason}" for reason in replies.failed.values()]
        for node, reply in replies.answers.items():
            client, (samples, held) = reply.told["client"], (reply.told.get(name) for name in ("num-examples", "held"))
            whole = type(samples) is int and type(held) is int and samples >= 1 and held >= 0
            if not (whole and 0 <= client < clients):
                wrong.append(
                    f"Expected a client from 0 to {clients - 1} with numbers of samples that it trains on and holds out, got client "
                    f"{client} with {reprlib.repr(samples)} and {reprlib.repr(held)}."
                )
            elif client in self.nodes:
                wrong.append(f"Two nodes say that they are client {client}. Give each its own partition-id.")
            else:
                self.nodes[client], found[client] = node, {"num-examples": samples, "held": held}
        return found, wrong

    def ask(self, kind: str, clients: Iterable[int], arrays: Arrays, config: Mapping[str, Any]) -> Replies:
        """Ask each of these clients the same. `kind` is the message type of Flower, such as "train"; `config` has plain values."""
        return self.ask_each(kind, dict.fromkeys(clients, config), arrays)

    def ask_each(self, kind: str, configs: Mapping[int, Mapping[str, Any]], arrays: Arrays) -> Replies:
        """Ask each client its own, and all with the same tensors."""
        if kind in TRAINS:
            configs = {c: {**given, **({"epochs": self.epochs[c]} if c in self.epochs else {})} for c, given in configs.items()}
        replies = self._ask(kind, {client: self.nodes[client] for client in configs if client in self.nodes}, arrays, configs)
        for client, reply in list(replies.answers.items()):
            if reply.told["client"] != client:
                replies.failed[client] = f"it says that it is client {reply.told['client']}"
                del replies.answers[client]
        for client in configs:
            if client not in replies.answers:
                replies.failed.setdefault(client, "it did not answer in time" if client in self.nodes else "it is not here")
        return replies

    def _ask(
        self,
        kind: str,
        nodes: Mapping[int, int],
        arrays: Arrays,
        configs: Mapping[int, Mapping[str, Any]],
        wait: float | None = None,
    ) -> Replies:
        app = flower("app")
        sent = app.ArrayRecord({name: app.Array(value) for name, value in arrays.items()}) if arrays else None
        messages, size = [], sum(value.nbytes for value in arrays.values())
        for client, node in nodes.items():
            record = app.RecordDict({"config": app.ConfigRecord(dict(configs.get(client, {})))})
            self.traffic.setdefault(client, [0, 0])[0] += size + _bytes(record["config"].values())
            if sent is not None:
                record["arrays"] = sent
            messages.append(app.Message(record, dst_node_id=node, message_type=kind))
        client_of = {node: client for client, node in nodes.items()}
        replies = Replies()
        for reply in self.grid.send_and_receive(messages, timeout=min(self.timeout, wait or self.timeout)):
            if reply.metadata.src_node_id not in client_of:  # the SuperLink answers in place of a node that is gone
                continue
            client = client_of[reply.metadata.src_node_id]
            if reply.has_error():
                replies.failed[client] = str(reply.error.reason)[:_LONGEST]
                continue
            told, record = (dict(reply.content.get(name, {})) for name in ("metrics", "record"))
            if type(told.get("client")) is not int:
                replies.failed[client] = "it does not say which client it is"
                continue
            try:
                found = {name: array.numpy() for name, array in reply.content.get("arrays", {}).items()}
                received = sum(array.nbytes for array in found.values()) + _bytes([*told.values(), *record.values()])
            except Exception as error:  # noqa: BLE001
                # bytes of a stranger, on which numpy may fail in any way
                replies.failed[client] = f"its tensors cannot be read: {error}"[:_LONGEST]
                continue
            self.traffic[client][1] += received
            replies.answers[client] = Reply(found, told, record)
            if self.seen is not None and kind in TRAINS:
                packed = {n: np.frombuffer(each, np.uint8) for n, each in record.items() if isinstance(each, bytes)}
                plain = {name: each for name, each in found.items() if each.dtype == np.float32}  # any other is refused anyway
                self.seen[client] = {**plain, **packed}  # type: ignore[dict-item]
        return replies


def _bytes(values: Iterable[Any]) -> int:
    """Of the numbers, texts, bytes and lists of them in a record; Flower's own count stops at an empty list."""
    return sum(
        len(value) if isinstance(value, str | bytes) else _bytes(value) if isinstance(value, list | tuple) else 8
        for value in values
    )
