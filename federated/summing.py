"""Secure aggregation over Flower: the four stages as messages of the train type, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from trustsnn.errors import ProtocolError, TrustSNNError
from trustsnn.federated.arrays import Arrays
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.exchange import Exchange
from trustsnn.federated.secure import Client, Cohort, Message, SealedShares, Server, Settings, Total, UnmaskRequest
from trustsnn.federated.secure.fixed_point import size_of

STAGES = ("keys", "shares", "masked", "unmask")
"""The actions of Flower's train messages, in their order."""

Work = Callable[[], tuple[Arrays, int, dict[str, Any]]]


def settings_of(config: FederatedConfig) -> Settings:
    """What server and clients of a federation agree on, each from its own configuration. ConfigError where a sum could wrap around."""
    given = config.secure
    assert given is not None
    private = config.privacy is not None and config.privacy.unit == "client"
    threshold = max(config.asked // 2 + 1, math.ceil(given.threshold * config.asked))
    return Settings(config.asked, threshold, given.clip, given.bits, 1 if private else given.max_weight)


def rounding(config: FederatedConfig, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """The most by which rounding each value to its nearest step lengthens an update, in the L2 norm."""
    return settings_of(config).step / 2 * math.sqrt(size_of(shapes))


def secure_sum(
    exchange: Exchange, config: FederatedConfig, shapes: Mapping[str, tuple[int, ...]], round_: int, cohort: list[int], arrays: Arrays,
    clip: float | None = None,
) -> tuple[Total | None, dict[int, dict[str, Any]], dict[int, str]]:  # fmt: skip
    """The sum of a cohort's updates, None where a stage had too few answers; what the clients told; and why some are not in it.

    The clients train in the third stage. `clip`: the norm to which each clips its update first.
    """
    settings = settings_of(config)
    if len(cohort) < settings.threshold:
        return (
            None,
            {},
            {client: f"{len(cohort)} clients are there, and secure aggregation takes {settings.threshold}" for client in cohort},
        )
    server = Server(settings, config.sha256, round_, cohort, shapes)
    told: dict[int, dict[str, Any]] = {}
    failed: dict[int, str] = {}
    requests: Mapping[int, Mapping[str, Any]] = {client: {"run": config.sha256, "round": round_} for client in cohort}
    close: tuple[Callable[[], Any], ...] = (server.cohort, server.relayed, server.unmask_request, server.total)
    try:
        for stage, end in zip(STAGES, close, strict=True):
            if stage == "masked" and clip is not None:
                requests = {client: {**request, "clip": clip} for client, request in requests.items()}
            replies = exchange.ask_each(f"train.{stage}", requests, arrays if stage == "masked" else {})
            failed |= {client: f"{reason} (stage {stage})" for client, reason in replies.failed.items()}
            for client in sorted(replies.answers):
                reply = replies.answers[client]
                try:
                    server.receive(client, Message.from_record(reply.record))
                except TrustSNNError as error:
                    failed[client] = f"{error} (stage {stage})"
                    continue
                if stage == "masked":
                    told[client] = reply.figures()
            ended = end()
            if stage == "unmask":
                found: Total = ended
                return found, {client: told[client] for client in found.clients}, failed
            records = {client: each.to_record() for client, each in ended.items()} if isinstance(ended, dict) else None
            requests = {client: records[client] if records is not None else ended.to_record() for client in server.expected}
    except ProtocolError as error:
        failed |= {client: str(error) for client in cohort if client not in failed}
    return None, told, failed


def answer(
    stage: str, config: FederatedConfig, client: int, told: Mapping[str, Any], state: Mapping[str, Any], work: Work
) -> Any:
    """A client's side of one stage.

    Args:
        told: the server's flat record.
        state: what the last stage left, a flat record; empty before the first.
        work: trains, and gives the update, its weight and the figures that go along.

    Returns:
        The answer's flat record, the state's, and the figures.
    """
    settings, round_ = settings_of(config), int(told["round"])
    # the first stage of a round begins anew; a client killed in the round before may have left a state
    each = Client(client, settings, config.sha256, round_) if stage == "keys" else Client.load(state, settings)
    figures: dict[str, Any] = {}
    found: Message
    if stage == "keys":
        found = each.advertise_keys()
    elif stage == "shares":
        found = each.share_keys(Cohort.from_record(told))
    elif stage == "masked":
        update, weight, figures = work()
        boxes = SealedShares.from_record({name: value for name, value in told.items() if name not in ("clip", "epochs")})
        found = each.masked_input(boxes, update, min(weight, settings.max_weight))
    else:
        found = each.unmask(UnmaskRequest.from_record(told))
    return found.to_record(), each.save(), figures
