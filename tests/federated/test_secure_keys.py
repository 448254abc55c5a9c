"""Mask keys and streams: against RFC 8439 and RFC 5869, no two alike, and all 256 bits of a key count."""

from __future__ import annotations

import hashlib
import hmac
import random
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from trustsnn.federated.secure import Settings
from trustsnn.federated.secure.keys import add_mask, channel_key, pair_key, public_of, self_key, session_of

SETTINGS = Settings(5, 3, 1.0)
PRIVATE = {i: random.Random(i).randbytes(64) for i in (1, 2, 2**64 - 1)}
PUBLIC = {i: public_of(both[:32]) + public_of(both[32:]) for i, both in PRIVATE.items()}


def mask(key: bytes, values: int = 16, dtype: str = "<u4") -> np.ndarray:
    vector = np.zeros(values, dtype)
    add_mask(vector, key, 1)
    return vector


def hkdf(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) of one block, without salt."""
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def test_the_stream_is_that_of_rfc_8439():
    # RFC 8439, appendix A.1, test vector 1: key, nonce and counter 0
    expected = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    assert mask(bytes(32)).tobytes().hex() == expected
    assert mask(bytes(32), 8, "<u8").tobytes().hex() == expected


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_pieces_are_one_stream_and_a_mask_taken_off_leaves_nothing(dtype):
    key, values = bytes(range(32)), 150_001
    vector = mask(key, values, dtype)
    whole = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(vector.nbytes))
    assert vector.tobytes() == whole
    add_mask(vector, key, -1)
    assert not vector.any()


def test_every_bit_of_a_key_changes_the_mask():
    key = random.Random(3).randbytes(32)
    flipped = [(int.from_bytes(key, "big") ^ 1 << bit).to_bytes(32, "big") for bit in range(256)]
    assert len({mask(each).tobytes() for each in [key, *flipped]}) == 257


def test_keys_that_upstream_folds_into_one_seed_have_masks_of_their_own():
    def folded(key: bytes) -> int:  # flwr 1.41.0, common/secure_aggregation/secaggplus_utils.py, pseudo_rand_gen
        seed = 0
        for start in range(0, len(key), 4):
            seed ^= int.from_bytes(key[start : start + 4], "little")
        return seed

    key = random.Random(4).randbytes(32)
    other = key[16:] + key[:16]
    assert key != other
    assert folded(key) == folded(other) < 2**32
    assert not np.array_equal(mask(key), mask(other))


def test_no_two_runs_rounds_settings_pairs_or_purposes_share_a_key():
    keys = []
    runs = [
        ("r", 1, SETTINGS),
        ("r", 2, SETTINGS),
        ("r1", 1, SETTINGS),
        ("R", 1, SETTINGS),
        ("r", 1, replace(SETTINGS, clip=2.0)),
    ]
    for session in (session_of(settings, run, round) for run, round, settings in runs):
        keys += [pair_key(session, PRIVATE[a][32:], a, b, PUBLIC) for a, b in combinations(PUBLIC, 2)]
        keys += [channel_key(session, PRIVATE[a][:32], a, b, b, PUBLIC) for a, b in permutations(PUBLIC, 2)]
        keys += [self_key(session, PRIVATE[i][32:], i) for i in PUBLIC]
        keys += [self_key(session, PRIVATE[1][32:], 2)]  # the same seed at another client
    assert len(set(keys)) == len(keys) == 5 * 13
    assert len({mask(key).tobytes() for key in keys}) == len(keys)


def test_both_of_a_pair_have_one_key_and_it_is_hkdf_of_x25519():
    session = session_of(SETTINGS, "r", 1)
    for a, b in combinations(PUBLIC, 2):
        key = pair_key(session, PRIVATE[a][32:], a, b, PUBLIC)
        assert key == pair_key(session, PRIVATE[b][32:], b, a, PUBLIC)
        shared = X25519PrivateKey.from_private_bytes(PRIVATE[a][32:]).exchange(X25519PublicKey.from_public_bytes(PUBLIC[b][32:]))
        ids = a.to_bytes(8, "big") + b.to_bytes(8, "big")
        assert key == hkdf(shared, b"trustsnn-secure/1 pair mask" + session + ids + PUBLIC[a] + PUBLIC[b])
        sent = channel_key(session, PRIVATE[a][:32], a, b, b, PUBLIC)
        assert sent == channel_key(session, PRIVATE[b][:32], a, b, a, PUBLIC)  # the receiver's side
        shared = X25519PrivateKey.from_private_bytes(PRIVATE[a][:32]).exchange(X25519PublicKey.from_public_bytes(PUBLIC[b][:32]))
        assert sent == hkdf(shared, b"trustsnn-secure/1 channel" + session + ids + PUBLIC[a] + PUBLIC[b])


def test_settings_that_are_equal_make_one_session():
    assert session_of(Settings(5, 3, 1), "r", 1) == session_of(SETTINGS, "r", 1)
