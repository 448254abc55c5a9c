"""Shamir's sharing against a slow reference, and all that fewer shares than the threshold say: nothing."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.errors import ProtocolError
from trustsnn.federated.secure.shamir import PRIME, combine, evaluate, interpolate, split

IDS = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=7, unique=True)


def lagrange(points: dict[int, int], prime: int) -> int:
    """The polynomial through these points at 0, in rationals: only the last line is modular."""
    total = Fraction(0)
    for p, value in points.items():
        term = Fraction(value)
        for q in points:
            if q != p:
                term *= Fraction(-q, p - q)
        total += term
    return total.numerator * pow(total.denominator, -1, prime) % prime


def test_the_field_is_prime_and_no_smaller_one_holds_a_secret():
    def is_prime(n: int) -> bool:  # Miller-Rabin, Fermat's witness strengthened, 40 bases
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        bases = random.Random(0)
        for _ in range(40):
            x = pow(bases.randrange(2, n - 1), odd, n)
            if x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(twos - 1)):
                return False
        return True

    assert is_prime(PRIME)
    assert not any(is_prime(n) for n in range(2**256 + 1, PRIME, 2))


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=32, max_size=32), IDS, st.data())
def test_any_threshold_of_shares_gives_the_secret_and_agrees_with_the_reference(secret, ids, data):
    threshold = data.draw(st.integers(2, len(ids)))
    shares = split(secret, threshold, ids, random.Random(0).randbytes)
    chosen = data.draw(st.permutations(ids))[:threshold]
    assert combine({i: shares[i] for i in chosen}) == secret
    assert lagrange({i + 1: int.from_bytes(shares[i], "big") for i in chosen}, PRIME) == int.from_bytes(secret, "big")
    assert all(len(share) == 33 for share in shares.values())


@settings(deadline=None, max_examples=30)
@given(IDS, st.integers(2, 4))
def test_shares_are_the_values_of_the_polynomial_of_the_drawn_coefficients(ids, threshold):
    draws, again = random.Random(1), random.Random(1)
    shares = evaluate(5, threshold, [i + 1 for i in ids], draws.randbytes)
    coefficients = [5, *(int.from_bytes(again.randbytes(49), "big") for _ in range(threshold - 1))]
    assert shares == {i + 1: sum(c * (i + 1) ** k for k, c in enumerate(coefficients)) % PRIME for i in ids}


def test_fewer_shares_than_the_threshold_are_consistent_with_every_secret_alike():
    prime, threshold = 7, 3
    seen: Counter[tuple[tuple[tuple[int, int], ...], int]] = Counter()
    for secret, *coefficients in product(range(prime), repeat=threshold):
        draws = iter(coefficients)
        shares = evaluate(secret, threshold, range(1, prime), lambda size: next(draws).to_bytes(size, "big"), prime)  # noqa: B023
        assert all(interpolate(dict(s), prime) == secret for s in combinations(shares.items(), threshold))
        for known in (part for size in range(1, threshold) for part in combinations(shares.items(), size)):
            seen[known, secret] += 1
    views = {view for view, _ in seen}
    assert len(views) == 6 * 7 + 15 * 49  # every pair of points takes every pair of values
    assert all(seen[view, secret] == prime ** (threshold - 1 - len(view)) for view in views for secret in range(prime))


def test_shares_of_no_32_byte_secret_are_refused():
    too_large = (2**256).to_bytes(33, "big")
    with pytest.raises(ProtocolError, match="do not fit together"):
        combine({0: too_large, 1: too_large})
