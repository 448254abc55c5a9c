"""A client of one round of secure aggregation: it answers four stages, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from trustsnn.errors import ConfigError, ProtocolError
from trustsnn.federated.secure.fixed_point import flatten, quantise
from trustsnn.federated.secure.keys import (
    KEY_BYTES,
    add_mask,
    channel_key,
    pair_key,
    pair_sign,
    public_of,
    seal,
    self_key,
    session_of,
    unseal,
)
from trustsnn.federated.secure.messages import (
    ADVERTISE_KEYS,
    MASKED_INPUT,
    SHARE_KEYS,
    UNMASK,
    Cohort,
    MaskedInput,
    Message,
    PublicKeys,
    Record,
    SealedShares,
    Unmasking,
    UnmaskRequest,
    check_message,
    is_id,
    too_few,
)
from trustsnn.federated.secure.settings import Settings
from trustsnn.federated.secure.shamir import SHARE_BYTES, split

if TYPE_CHECKING:
    from trustsnn.federated.arrays import Array

ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class ClientState(Message):
    """What a client remembers from one stage to the next."""

    id: int
    stage: str = ADVERTISE_KEYS
    channel: bytes = field(default=b"", repr=False)  # private keys
    mask: bytes = field(default=b"", repr=False)
    seed: bytes = field(default=b"", repr=False)  # of its own mask
    keys: dict[int, bytes] = field(default_factory=dict)  # the public keys of the cohort
    shares: dict[int, bytes] = field(default_factory=dict, repr=False)  # by whose they are: of the mask key, then of the seed


class Client:
    """The side of one client in one round.

    A request out of turn is refused. A request of wrong content is refused and ends the round for this client: its secrets are
    forgotten. Each refusal is a ProtocolError.

    Args:
        id: 0 to 2^64 - 1, that by which the server knows it.
        settings: its own; never those that a server sends.
        run, round: a name and a number that no other aggregation of these clients has.
        random: gives n random bytes. Anything but the operating system's source is for tests.
    """

    def __init__(self, id: int, settings: Settings, run: str, round: int, *, random: Callable[[int], bytes] = os.urandom) -> None:
        if not (is_id(id) and is_id(round)):
            raise ConfigError(f"Expected an id and a round from 0 to 2^64 - 1, got {id!r} and {round!r}.")
        self._settings, self._random = settings, random
        self._session = session_of(settings, run, round)
        self._state = ClientState(id=id, run=run, round=round)

    def save(self) -> Record:
        """The state as a flat record, to go on from in another process. It holds secrets: keep it where the private keys may lie, and
        never go back to an older one, or a stage could be answered twice."""
        return self._state.to_record()

    @classmethod
    def load(cls, record: Mapping[str, object], settings: Settings, *, random: Callable[[int], bytes] = os.urandom) -> Client:
        """The client of a record of `save`."""
        state = ClientState.from_record(record)
        client = cls(state.id, settings, state.run, state.round, random=random)
        client._state = state
        return client

    def advertise_keys(self) -> PublicKeys:
        """Two fresh pairs of X25519 keys: their public halves."""
        state = self._enter(ADVERTISE_KEYS)
        channel, mask = self._random(KEY_BYTES), self._random(KEY_BYTES)
        self._state = replace(state, stage=SHARE_KEYS, channel=channel, mask=mask)
        return PublicKeys(run=state.run, round=state.round, keys=public_of(channel) + public_of(mask))

    def share_keys(self, cohort: Cohort) -> SealedShares:
        """Shares of the private mask key and of a fresh seed, one of each sealed for every other client.

        Raises:
            ProtocolError: the cohort is below the threshold or above `settings.clients`, this client's keys are not in it, or a key is
                there twice or malformed.
        """
        state, settings = self._enter(SHARE_KEYS, cohort, Cohort), self._settings
        own, keys = state.id, cohort.keys
        self._check_number(SHARE_KEYS, len(keys))
        if len(keys) > settings.clients:
            raise ProtocolError(f"Expected at most {settings.clients} clients in the cohort of client {own}, got {len(keys)}.")
        if keys.get(own) != public_of(state.channel) + public_of(state.mask):
            raise ProtocolError(f"The cohort does not hold the public keys that client {own} advertised.")
        if any(len(each) != 2 * KEY_BYTES for each in keys.values()):
            raise ProtocolError(f"Expected {2 * KEY_BYTES} bytes of public keys of each client, got another number.")
        if len({half for each in keys.values() for half in (each[:KEY_BYTES], each[KEY_BYTES:])}) < 2 * len(keys):
            raise ProtocolError("Two public keys in the cohort are the same.")
        seed = self._random(KEY_BYTES)
        of_key, of_seed = (split(secret, settings.threshold, keys, self._random) for secret in (state.mask, seed))
        shares = {peer: of_key[peer] + of_seed[peer] for peer in keys}
        sealed = {
            peer: seal(
                channel_key(self._session, state.channel, own, peer, peer, keys),
                self._session,
                own,
                peer,
                shares[peer],
                self._random,
            )
            for peer in keys
            if peer != own
        }
        self._state = replace(state, stage=MASKED_INPUT, seed=seed, keys=dict(keys), shares={own: shares[own]})
        return SealedShares(run=state.run, round=state.round, sealed=sealed)

    def masked_input(
        self,
        shares: SealedShares,
        update: Mapping[str, Array],
        weight: int = 1,
        generator: np.random.Generator | None = None,
    ) -> MaskedInput:
        """The quantised update with its weight, masked: y = x + PRG(b_u) + sum over v of +-PRG(s_uv), modulo 2^ring.

        Args:
            shares: what the others sealed for this client. They and this client are those whose masks are added.
            update: finite float32 arrays, of the same names and shapes at all clients.
            weight, generator: see `fixed_point.quantise`.

        Raises:
            ConfigError: an update or a weight out of range. The client's state stays as it was.
            ProtocolError: fewer than the threshold, shares of one who is not of the cohort, or shares that do not open.
        """
        vector = quantise(flatten(update), self._settings, weight, generator)
        state = self._enter(MASKED_INPUT, shares, SealedShares)
        own, held = state.id, dict(state.shares)
        self._check_number(MASKED_INPUT, len(shares.sealed) + 1)
        if own in shares.sealed or not shares.sealed.keys() <= state.keys.keys():
            raise ProtocolError(f"Client {own} got shares as from itself or from one who is not of its cohort.")
        add_mask(vector, self_key(self._session, state.seed, own), 1)
        for peer, sealed in shares.sealed.items():
            key = channel_key(self._session, state.channel, peer, own, peer, state.keys)
            held[peer] = unseal(key, self._session, peer, own, sealed)
            if len(held[peer]) != 2 * SHARE_BYTES:
                raise ProtocolError(
                    f"Expected two shares of {SHARE_BYTES} bytes from client {peer}, got {len(held[peer])} bytes."
                )
            add_mask(vector, pair_key(self._session, state.mask, own, peer, state.keys), pair_sign(own, peer))
        self._state = replace(state, stage=UNMASK, channel=b"", mask=b"", seed=b"", keys={}, shares=held)
        return MaskedInput(run=state.run, round=state.round, vector=vector.tobytes())

    def unmask(self, request: UnmaskRequest) -> Unmasking:
        """Of each survivor the share of its seed, of each dropped client that of its mask key; never both of one.

        Raises:
            ProtocolError: a client that is both, one that is unknown or left out, this client not among the survivors, or survivors
                below the threshold.
        """
        state = self._enter(UNMASK, request, UnmaskRequest)
        survivors, dropped = set(request.survivors), set(request.dropped)
        if both := survivors & dropped:
            raise ProtocolError(
                f"Client {state.id} was asked for the share of the seed and of the key of client {min(both)}, which together show its update."
            )
        if survivors | dropped != state.shares.keys() or len(request.survivors + request.dropped) != len(state.shares):
            raise ProtocolError(
                f"Client {state.id} was asked to unmask others than the {len(state.shares)} whose shares it holds."
            )
        if state.id not in survivors:
            raise ProtocolError(f"Client {state.id} was asked to unmask as if it had sent no masked input.")
        self._check_number(UNMASK, len(survivors))
        return Unmasking(
            run=state.run,
            round=state.round,
            seeds={i: state.shares[i][SHARE_BYTES:] for i in sorted(survivors)},
            keys={i: state.shares[i][:SHARE_BYTES] for i in sorted(dropped)},
        )

    def _enter(self, stage: str, message: Message | None = None, kind: type[Message] = Message) -> ClientState:
        """The state on entering a stage. It is forgotten until the stage succeeds, so that no answer follows a refusal."""
        state = self._state
        if state.stage != stage:
            raise ProtocolError(
                f"Client {state.id} was asked for the stage {stage!r}, but is at {state.stage!r}: each is answered once."
            )
        self._state = ClientState(id=state.id, run=state.run, round=state.round, stage=ENDED)
        if message is not None:
            check_message(message, kind, state.run, state.round, f"at client {state.id}")
        return state

    def _check_number(self, stage: str, number: int) -> None:
        if number < self._settings.threshold:
            raise too_few(stage, self._state.run, self._state.round, number, self._settings.clients, self._settings.threshold)
