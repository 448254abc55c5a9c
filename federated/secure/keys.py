"""Keys of pairs of clients, the sealing of shares between them, and the streams of masks.

Keys are HKDF-SHA256 (RFC 5869) of an X25519 secret (RFC 7748) or of a client's seed. Their info holds the purpose, the session (run,
round, settings), the ids and the public keys, so that no two purposes, runs, rounds or pairs share a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trustsnn.canonical import sha256_of
from trustsnn.errors import ProtocolError
from trustsnn.federated.secure.fixed_point import Vector
from trustsnn.federated.secure.settings import Settings

KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
_ZEROS = bytes(1 << 18)  # the masks are made in pieces that stay in the cache


def session_of(settings: Settings, run: str, round: int) -> bytes:
    """32 bytes that name a run, a round and the settings."""
    return bytes.fromhex(sha256_of({"protocol": "trustsnn-secure/1", "run": run, "round": round, "settings": asdict(settings)}))


def public_of(private: bytes) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def self_key(session: bytes, seed: bytes, own: int) -> bytes:
    """The key of a client's own mask."""
    return _derived(seed, b"self mask", session, own)


def pair_key(session: bytes, private: bytes, own: int, peer: int, keys: Mapping[int, bytes]) -> bytes:
    """The key of the mask of two clients, the same for both: `private` is the mask key of `own`, `keys` the public ones of all (64
    bytes each: channel, mask)."""
    low, high = min(own, peer), max(own, peer)
    return _derived(_agreed(private, keys[peer][KEY_BYTES:], peer), b"pair mask", session, low, high, keys[low] + keys[high])


def channel_key(session: bytes, private: bytes, sender: int, receiver: int, peer: int, keys: Mapping[int, bytes]) -> bytes:
    """The key of what `sender` seals for `receiver`, of whom `peer` is the other one: `private` is one's own channel key."""
    secret = _agreed(private, keys[peer][:KEY_BYTES], peer)
    return _derived(secret, b"channel", session, sender, receiver, keys[sender] + keys[receiver])


def seal(key: bytes, session: bytes, sender: int, receiver: int, plain: bytes, random: Callable[[int], bytes]) -> bytes:
    """nonce || ChaCha20-Poly1305 (RFC 8439) of `plain`, bound to the session and the two ids."""
    nonce = random(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plain, session + _number(sender) + _number(receiver))


def unseal(key: bytes, session: bytes, sender: int, receiver: int, sealed: bytes) -> bytes:
    """What `seal` sealed; ProtocolError where a byte was altered, or the session or the ids are others."""
    nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, content, session + _number(sender) + _number(receiver))
    except (InvalidTag, ValueError):
        raise ProtocolError(
            f"The shares that client {receiver} got as from client {sender} do not open: they were altered, replayed from another round "
            "or run, meant for another client, or sealed by one with other settings."
        ) from None


def pair_sign(own: int, peer: int) -> int:
    """The sign with which `own` adds its mask with `peer`: the other one adds it with the other sign."""
    return 1 if own > peer else -1


def add_mask(vector: Vector, key: bytes, sign: int) -> None:
    """Add sign * mask to `vector` in place, modulo 2^ring. The mask is the ChaCha20 stream of a key that makes no other stream, from
    counter and nonce 0, read as little-endian integers."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    piece = len(_ZEROS) // vector.itemsize
    for start in range(0, len(vector), piece):
        part = vector[start : start + piece]
        mask = np.frombuffer(stream.update(_ZEROS[: part.nbytes]), vector.dtype)
        (np.add if sign > 0 else np.subtract)(part, mask, out=part)


def _agreed(private: bytes, public: bytes, peer: int) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # a point of small order
        raise ProtocolError(f"The public key of client {peer} is not one of X25519 that a client would make.") from None


def _derived(secret: bytes, purpose: bytes, session: bytes, *parts: int | bytes) -> bytes:
    info = b"trustsnn-secure/1 " + purpose + session + b"".join(_number(p) if isinstance(p, int) else p for p in parts)
    return HKDF(hashes.SHA256(), KEY_BYTES, None, info).derive(secret)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")
