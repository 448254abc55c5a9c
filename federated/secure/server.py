"""The server of one round of secure aggregation: it gathers each stage, and learns the sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ConfigError, ProtocolError
from trustsnn.federated.secure.fixed_point import Layout, dequantise, size_of, unflatten
from trustsnn.federated.secure.keys import (
    KEY_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    add_mask,
    pair_key,
    pair_sign,
    public_of,
    self_key,
    session_of,
)
from trustsnn.federated.secure.messages import (
    STAGES,
    Cohort,
    MaskedInput,
    Message,
    PublicKeys,
    SealedShares,
    Unmasking,
    UnmaskRequest,
    check_message,
    is_id,
    too_few,
)
from trustsnn.federated.secure.settings import Settings
from trustsnn.federated.secure.shamir import SHARE_BYTES, combine

_KINDS: tuple[type[Message], ...] = (PublicKeys, SealedShares, MaskedInput, Unmasking)
_SEALED_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES


@dataclass(frozen=True)
class Total:
    """What a round gives.

    sums: the sum over `clients` of weight / max_weight * update, float64.
    weight: the sum of their weights.
    clients: whose updates are in it, in rising order.
    max_weight: of the settings.
    """

    sums: dict[str, NDArray[np.float64]]
    weight: int
    clients: tuple[int, ...]
    max_weight: int

    def mean(self) -> dict[str, NDArray[np.float32]]:
        """The mean of the updates by weight, float32. ConfigError where all weights are 0."""
        if self.weight == 0:
            raise ConfigError("Expected a client with a weight above 0, got none: there is no mean.")
        return {name: (values * (self.max_weight / self.weight)).astype(np.float32) for name, values in self.sums.items()}


class Server:
    """The side of the server in one round.

    For each of four stages: ask the clients in `expected`, hand every answer to `receive`, then close the stage, which gives what to send
    next. Closing order: `cohort`, `relayed`, `unmask_request`, `total`. Who has not answered by then has dropped out; an answer that
    `receive` refuses counts as none and changes nothing. The order of the answers does not matter.

    Args:
        settings, run, round: those of the clients.
        ids: the clients that are invited.
        layout: `layout_of` the updates.

    Raises:
        ConfigError: fewer clients than the threshold or more than `settings.clients`, or an id out of range.
    """

    def __init__(
        self, settings: Settings, run: str, round: int, ids: Collection[int], layout: Mapping[str, tuple[int, ...]]
    ) -> None:
        if not settings.threshold <= len(set(ids)) <= settings.clients or not all(map(is_id, ids)):
            raise ConfigError(
                f"Expected {settings.threshold} to {settings.clients} clients with ids from 0 to 2^64 - 1, got {len(set(ids))}: {sorted(ids)}."
            )
        self._settings, self._run, self._round = settings, run, round
        self._session = session_of(settings, run, round)
        self._layout: Layout = dict(layout)
        self._stage = 0
        self._expected, self._answered = tuple(sorted(set(ids))), set[int]()
        self._keys: dict[int, bytes] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._sum = np.zeros(size_of(layout) + 1, f"<u{settings.ring // 8}")
        self._request = UnmaskRequest(run=run, round=round, survivors=(), dropped=())
        self._unmaskings: dict[int, Unmasking] = {}

    @property
    def expected(self) -> tuple[int, ...]:
        """The clients to be asked in the open stage, in rising order."""
        return self._expected

    def receive(self, sender: int, message: Message) -> None:
        """Take a client's answer to the open stage. `sender` is whom the transport has authenticated.

        Raises:
            ProtocolError: not from one of `expected`, a second answer, or of another stage, run, round or form.
        """
        where = f"from client {sender} at the server"
        if self._stage == len(STAGES):
            raise ProtocolError(f"Got a message {where} after the end of round {self._round} of run {self._run!r}.")
        stage = STAGES[self._stage]
        if sender not in self._expected:
            raise ProtocolError(f"Got a message {where}, who is not among those asked for the stage {stage!r}.")
        check_message(message, _KINDS[self._stage], self._run, self._round, where)
        if sender in self._answered:
            raise ProtocolError(f"Got a second message {where} for the stage {stage!r}.")
        if isinstance(message, PublicKeys):
            self._take_keys(sender, message.keys)
        elif isinstance(message, SealedShares):
            self._take_shares(sender, message.sealed)
        elif isinstance(message, MaskedInput):
            self._take_input(sender, message.vector)
        elif isinstance(message, Unmasking):
            self._take_unmasking(sender, message)
        self._answered.add(sender)

    def cohort(self) -> Cohort:
        """Close `advertise keys`. To be sent to all that are now expected. ProtocolError below the threshold, as below."""
        self._close(0)
        return Cohort(run=self._run, round=self._round, keys=dict(sorted(self._keys.items())))

    def relayed(self) -> dict[int, SealedShares]:
        """Close `share keys`. What is to be sent to each client that is now expected."""
        senders = self._close(1)
        boxes = {to: {sender: self._sealed[sender][to] for sender in senders if sender != to} for to in senders}
        self._sealed = {}
        return {to: SealedShares(run=self._run, round=self._round, sealed=box) for to, box in boxes.items()}

    def unmask_request(self) -> UnmaskRequest:
        """Close `masked input`. To be sent to all that are now expected, the survivors."""
        shared = self._expected
        survivors = self._close(2)
        dropped = tuple(i for i in shared if i not in survivors)
        self._request = UnmaskRequest(run=self._run, round=self._round, survivors=survivors, dropped=dropped)
        return self._request

    def total(self) -> Total:
        """Close `unmask`: the sum over the survivors.

        |sums - plain sum| <= survivors * step / 2 for each value where clients round to the nearest, and below survivors * step where
        they round stochastically; the plain sum is that of weight / max_weight * clip(update). The weight is exact.

        Raises:
            ProtocolError: fewer than the threshold, shares that do not fit, or a sum that no such clients can have.
        """
        readers = self._close(3)[: self._settings.threshold]
        survivors, dropped = self._request.survivors, self._request.dropped
        for i in survivors:
            seed = combine({reader: self._unmaskings[reader].seeds[i] for reader in readers})
            add_mask(self._sum, self_key(self._session, seed, i), -1)
        for i in dropped:
            private = combine({reader: self._unmaskings[reader].keys[i] for reader in readers})
            if public_of(private) != self._keys[i][KEY_BYTES:]:
                raise ProtocolError(f"The shares of the mask key of client {i} do not give it. Discard this round.")
            for survivor in survivors:
                add_mask(self._sum, pair_key(self._session, private, i, survivor, self._keys), -pair_sign(survivor, i))
        values, weight = dequantise(self._sum, self._settings, len(survivors))
        return Total(unflatten(values, self._layout), weight, survivors, self._settings.max_weight)

    def _close(self, number: int) -> tuple[int, ...]:
        if self._stage != number:
            now = STAGES[self._stage] if self._stage < len(STAGES) else "ended"
            raise ProtocolError(f"The server was told to close the stage {STAGES[number]!r}, but is at {now!r}.")
        answered, asked = tuple(sorted(self._answered)), len(self._expected)
        self._expected, self._answered = answered, set()
        if len(answered) < self._settings.threshold:
            self._stage, self._expected = len(STAGES), ()
            raise too_few(STAGES[number], self._run, self._round, len(answered), asked, self._settings.threshold)
        self._stage += 1
        return answered

    def _take_keys(self, sender: int, keys: bytes) -> None:
        halves = {keys[:KEY_BYTES], keys[KEY_BYTES:]}
        taken = {half for each in self._keys.values() for half in (each[:KEY_BYTES], each[KEY_BYTES:])}
        if len(keys) != 2 * KEY_BYTES or len(halves) < 2 or halves & taken:
            raise ProtocolError(
                f"Expected two public keys of {KEY_BYTES} bytes from client {sender} that no other has, got others."
            )
        self._keys[sender] = keys

    def _take_shares(self, sender: int, sealed: dict[int, bytes]) -> None:
        if sealed.keys() != set(self._expected) - {sender} or any(len(each) != _SEALED_BYTES for each in sealed.values()):
            raise ProtocolError(
                f"Expected {_SEALED_BYTES} bytes from client {sender} for each other client of the cohort, got others."
            )
        self._sealed[sender] = dict(sealed)

    def _take_input(self, sender: int, vector: bytes) -> None:
        if len(vector) != self._sum.nbytes:
            raise ProtocolError(
                f"Expected a masked vector of {self._sum.nbytes} bytes from client {sender}, got {len(vector)}. Do all clients have the "
                "same model, and the same ring in their settings?"
            )
        self._sum += np.frombuffer(vector, self._sum.dtype)

    def _take_unmasking(self, sender: int, message: Unmasking) -> None:
        good = message.seeds.keys() == set(self._request.survivors) and message.keys.keys() == set(self._request.dropped)
        if not good or any(len(share) != SHARE_BYTES for share in [*message.seeds.values(), *message.keys.values()]):
            raise ProtocolError(
                f"Expected a share of {SHARE_BYTES} bytes from client {sender} for each that was asked for, got others."
            )
        self._unmaskings[sender] = message
