"""All parties of a secure aggregation in one process: for tests, benchmarks and examples. It protects nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from trustsnn.errors import ConfigError
from trustsnn.federated.secure.client import Client
from trustsnn.federated.secure.fixed_point import layout_of
from trustsnn.federated.secure.messages import (
    ADVERTISE_KEYS,
    MASKED_INPUT,
    SHARE_KEYS,
    STAGES,
    UNMASK,
    Cohort,
    Message,
    SealedShares,
    UnmaskRequest,
)
from trustsnn.federated.secure.server import Server, Total
from trustsnn.federated.secure.settings import Settings

if TYPE_CHECKING:
    from trustsnn.federated.arrays import Array


def aggregate(
    updates: Mapping[int, Mapping[str, Array]],
    settings: Settings,
    drops: Mapping[str, Collection[int]] | None = None,
    *,
    weights: Mapping[int, int] | None = None,
    run: str = "aggregate",
    round: int = 0,
    generator: np.random.Generator | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> Total:
    """The secure sum of these updates. Every message goes through its flat record.

    Args:
        updates: by client id, all of the same names and shapes.
        drops: by stage of `STAGES`, the clients that do not answer it nor any later one.
        weights: by client id; 1 where None.
        generator: for stochastic rounding; None rounds to the nearest.
        random: for tests.

    Raises:
        ConfigError: an unknown stage, or what `Server` and `quantise` refuse.
        ProtocolError: fewer than the threshold answered a stage.
    """
    drops = drops or {}
    if unknown := drops.keys() - set(STAGES):
        raise ConfigError(f"Expected stages of {', '.join(STAGES)}, got {', '.join(sorted(unknown))}.")
    layouts = {i: layout_of(update) for i, update in updates.items()}
    layout = next(iter(layouts.values()), {})
    if any(each != layout for each in layouts.values()):
        raise ConfigError("Expected updates of the same names and shapes from all clients, got others.")
    server = Server(settings, run, round, updates, layout)
    clients = {i: Client(i, settings, run, round, random=random) for i in updates}
    gone: set[int] = set()

    def gather(stage: str, answer: Callable[[int], Message]) -> None:
        gone.update(drops.get(stage, ()))
        for i in server.expected:
            if i not in gone:
                server.receive(i, Message.from_record(answer(i).to_record()))

    gather(ADVERTISE_KEYS, lambda i: clients[i].advertise_keys())
    keys = server.cohort().to_record()
    gather(SHARE_KEYS, lambda i: clients[i].share_keys(Cohort.from_record(keys)))
    boxes = {i: box.to_record() for i, box in server.relayed().items()}
    gather(
        MASKED_INPUT,
        lambda i: clients[i].masked_input(
            SealedShares.from_record(boxes[i]), updates[i], 1 if weights is None else weights[i], generator
        ),
    )
    request = server.unmask_request().to_record()
    gather(UNMASK, lambda i: clients[i].unmask(UnmaskRequest.from_record(request)))
    return server.total()
