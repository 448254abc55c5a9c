"""Shamir's secret sharing (1979) of 32-byte secrets over the prime field of 2^256 + 297.

Client i holds the polynomial's value at i + 1. Any `threshold` shares give the secret; fewer are consistent with every secret alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from trustsnn.errors import ProtocolError

PRIME = 2**256 + 297  # the smallest prime above 2^256
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, threshold: int, ids: Iterable[int], random: Callable[[int], bytes]) -> dict[int, bytes]:
    """A share of 33 bytes of a 32-byte secret for each id."""
    shares = evaluate(int.from_bytes(secret, "big"), threshold, [i + 1 for i in ids], random)
    return {point - 1: share.to_bytes(SHARE_BYTES, "big") for point, share in shares.items()}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The 32-byte secret of exactly `threshold` shares by id; ProtocolError where they are of no such secret."""
    secret = interpolate({i + 1: int.from_bytes(share, "big") for i, share in shares.items()})
    if secret >> (8 * SECRET_BYTES):
        raise ProtocolError("The shares of a secret do not fit together: a client's share is not as agreed. Discard this round.")
    return secret.to_bytes(SECRET_BYTES, "big")


def evaluate(
    secret: int, threshold: int, points: Iterable[int], random: Callable[[int], bytes], prime: int = PRIME
) -> dict[int, int]:
    """The values at `points` (none of them 0 modulo `prime`) of a random polynomial of degree threshold - 1 that is `secret` at 0."""
    size = (prime.bit_length() + 7) // 8 + 16  # 128 bits more than the prime: the bias of the remainder is below 2^-128
    coefficients = [secret, *(int.from_bytes(random(size), "big") % prime for _ in range(threshold - 1))]
    shares = {}
    for point in points:
        value = 0
        for coefficient in reversed(coefficients):  # Horner
            value = (value * point + coefficient) % prime
        shares[point] = value
    return shares


def interpolate(shares: Mapping[int, int], prime: int = PRIME) -> int:
    """The value at 0 of the polynomial of lowest degree through these points."""
    points = tuple(sorted(shares))
    return sum(shares[p] * factor for p, factor in zip(points, _at_zero(points, prime), strict=True)) % prime


@lru_cache(maxsize=8)  # all secrets of a round are read at the same points
def _at_zero(points: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """Lagrange's basis polynomials at 0."""
    factors = []
    for p in points:
        above, below = 1, 1
        for q in points:
            if q != p:
                above, below = above * q % prime, below * (q - p) % prime
        factors.append(above * pow(below, -1, prime) % prime)
    return tuple(factors)
