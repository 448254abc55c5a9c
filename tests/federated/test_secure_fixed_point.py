"""Quantisation: its bound, no wrap-around, and vectors that do not depend on the order of names."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trustsnn.errors import ConfigError, ProtocolError
from trustsnn.federated.secure import Settings, dequantise, flatten, layout_of, quantise, unflatten

VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -0.0, 1e-30, 3e38, -3e38])


@st.composite
def sums(draw):
    """Settings, updates [n, m] and their weights."""
    n, weight = draw(st.integers(2, 9)), draw(st.sampled_from([1, 7, 60000]))
    clip = draw(st.floats(1e-3, 1e3))
    chosen = Settings(n, n, clip, draw(st.integers(2, 28)), weight, draw(st.sampled_from([32, 64])))
    updates = draw(hnp.arrays(np.float32, (n, draw(st.integers(0, 6))), elements=VALUES))
    return chosen, updates, draw(st.lists(st.integers(0, weight), min_size=n, max_size=n))


@settings(deadline=None, max_examples=150)
@given(sums(), st.booleans())
def test_the_sum_keeps_its_bound(drawn, stochastic):
    chosen, updates, weights = drawn
    generator = np.random.default_rng(0) if stochastic else None
    vectors = [quantise(u, chosen, w, generator) for u, w in zip(updates, weights, strict=True)]
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    values, weight = dequantise(total, chosen, len(vectors))
    assert weight == sum(weights)
    clipped = np.clip(updates.astype(np.float64), -chosen.clip, chosen.clip)
    plain = (clipped * np.array(weights)[:, None] / chosen.max_weight).sum(axis=0)
    bound = len(vectors) * chosen.step * (1.0 if stochastic else 0.5)
    assert np.all(np.abs(values - plain) <= bound * (1 + 1e-6))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=8), st.integers(2, 24), st.integers(0, 9))
def test_one_vector_against_exact_fractions(values, bits, weight):
    chosen = Settings(2, 2, 1.0, bits, 9)
    *integers, last = map(int, quantise(np.array(values, np.float32), chosen, weight).view("<i4"))
    assert last == weight
    for value, integer in zip(values, integers, strict=True):
        exact = max(min(Fraction(value), 1), -1) * Fraction(weight, 9) * chosen.levels
        assert abs(exact - integer) <= Fraction(1, 2) + Fraction(1, 10**6)


def test_stochastic_rounding_has_no_bias():
    chosen, generator = Settings(2, 2, 1.0, 4), np.random.default_rng(0)
    value = 0.3 * chosen.step
    integers = quantise(np.full(40_000, value, np.float32), chosen, 1, generator)[:-1].view("<i4")
    assert set(integers) == {0, 1}
    assert abs(integers.mean() - 0.3) < 5 * np.sqrt(0.21 / 40_000)


@pytest.mark.parametrize(("clients", "bits", "ring"), [(4096, 20, 32), (2, 31, 32), (2**31, 32, 64)])
def test_as_many_clients_as_fit_do_not_wrap(clients, bits, ring):
    chosen = Settings(clients, clients, 1.0, bits, 1, ring)
    for sign in (1, -1):
        largest = quantise(np.full(1, sign * 9.0, np.float32), chosen)
        with np.errstate(over="ignore"):
            values, weight = dequantise(largest * np.array(clients, largest.dtype), chosen, clients)
        assert values == pytest.approx([sign * clients], rel=1e-9)
        assert weight == clients


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clients": 4097}, "can reach 2148003839; a ring of 32 bits holds 2147483647. Use fewer bits"),
        ({"clients": 10, "bits": 32}, "Use fewer bits"),
        ({"clients": 10, "max_weight": 2**29}, "a smaller max_weight"),
        ({"clients": 10, "max_weight": 2**62, "ring": 64}, "a smaller max_weight"),
        ({"clients": 1, "threshold": 1}, "at least 2 clients"),
        ({"clients": 10, "threshold": 5}, "Set threshold to 6 or more"),
        ({"clients": 10, "threshold": 11}, "not above all of them, got 11"),
        ({"clients": 3.0}, "whole number for clients"),
        ({"clip": 0.0}, "positive, finite clip"),
        ({"clip": float("nan")}, "positive, finite clip"),
        ({"clip": float("inf")}, "positive, finite clip"),
        ({"bits": 1}, "bits from 2 to 32"),
        ({"bits": 33}, "bits from 2 to 32"),
        ({"max_weight": 0}, "max_weight of at least 1"),
        ({"ring": 16}, "32 or 64"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    clients = arguments.get("clients", 10)
    with pytest.raises(ConfigError, match=message):
        Settings(**{"threshold": clients, "clip": 1.0, **arguments, "clients": clients})


@pytest.mark.parametrize(
    ("values", "weight", "message"),
    [
        ([1.0, float("nan")], 1, "got 1 of 2 that are not"),
        ([float("inf"), float("-inf")], 1, "got 2 of 2 that are not"),
        ([1.0], 6, "from 0 to max_weight = 5, got 6"),
        ([1.0], -1, "got -1"),
        ([1.0], 1.0, "got 1.0"),
    ],
)
def test_updates_and_weights_out_of_range_are_refused(values, weight, message):
    with pytest.raises(ConfigError, match=message):
        quantise(np.array(values, np.float32), Settings(2, 2, 1.0, max_weight=5), weight)


@pytest.mark.parametrize("planted", [[2 * 127 + 1, 0], [-2 * 127 - 1, 0], [0, 3], [0, -1]])
def test_a_sum_that_no_such_clients_have_is_refused(planted):
    with pytest.raises(ProtocolError, match="outside of what 2 clients can reach"):
        dequantise(np.array(planted, "<i4").view("<u4"), Settings(3, 2, 1.0, 8), 2)


def test_flat_vectors_go_by_sorted_names_and_back():
    arrays = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a": np.float32([7.0]),
        "B": np.float32(8.0)[None][0:1, None],
    }
    turned = dict(reversed(arrays.items()))
    assert flatten(arrays).tolist() == [8.0, 7.0, 0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    assert np.array_equal(flatten(turned), flatten(arrays))
    assert list(layout_of(turned)) == ["B", "a", "b.weight"]
    for name, array in unflatten(flatten(turned), {name: array.shape for name, array in arrays.items()}).items():
        assert np.array_equal(array, arrays[name])
    assert flatten({}).shape == (0,)
