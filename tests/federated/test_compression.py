"""Compression: what the server sees, what the client keeps, how many bytes travel, and what a hostile payload can do: nothing."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load as load_safetensors

from trustsnn.errors import ConfigError, DataError, ProtocolError
from trustsnn.federated.coding import SCHEMES, Quantised, TopK, Uncompressed, parse
from trustsnn.federated.compression import compress, decompress, payload_size, shapes_of

LINES = [
    "none",
    "top-k:0.1",
    "top-k:1",
    "quantised:8",
    "quantised:2",
    "quantised:3:rounding=nearest",
    "quantised:16:rounding=nearest",
]
VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
UPDATES = st.fixed_dictionaries(
    {
        "b.weight": arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 7)), elements=VALUES),
        "a": arrays(np.float32, st.just(()), elements=VALUES),
        "c": arrays(np.float32, st.integers(1, 40), elements=VALUES),
    }
)


def draws(seed=0):
    return np.random.default_rng(seed)


def update(size=1000, seed=0, **more):
    return {
        "w": draws(seed).standard_normal((size // 10, 10)).astype(np.float32),
        "b": np.float32(0.1) * np.ones(3, np.float32),
        **more,
    }


def flat(some):
    return np.concatenate([some[name].reshape(-1) for name in sorted(some)])


@given(UPDATES, st.sampled_from(LINES), st.integers(0, 5))
@settings(deadline=None)
def test_the_server_sees_what_the_client_says_it_sees(sent, line, seed):
    scheme = parse(line)
    done = compress(sent, scheme, draws(seed))
    assert len(done.payload) == payload_size(scheme, shapes_of(sent))
    seen = decompress(done.payload, scheme, shapes_of(sent))
    assert seen.keys() == sent.keys()
    for name, array in seen.items():
        assert array.shape == sent[name].shape
        assert array.dtype == np.float32
        assert array.tobytes() == done.seen[name].tobytes()
    again = compress(dict(reversed(sent.items())), scheme, draws(seed))
    assert again.payload == done.payload  # the order of the names does not matter
    load_safetensors(done.payload)  # any reader of safetensors can read it


@pytest.mark.parametrize("line", LINES)
def test_bytes_that_travel(line):
    sent, scheme = update(), parse(line)
    values = {"none": 4 * 1003, "top-k": 8 * 100, "quantised": 2 * 4 + math.ceil(1003 * getattr(scheme, "bits", 0) / 8)}
    if line == "top-k:1":
        values["top-k"] = 8 * 1003
    assert 0 < payload_size(scheme, shapes_of(sent)) - values[scheme.name] < 250  # the header


def test_nothing_is_lost_without_compression():
    sent = update()
    done = compress(sent, Uncompressed(), draws(), {"w": sent["w"], "b": sent["b"]})
    assert flat(done.seen).tobytes() == flat(sent).tobytes()
    assert done.residual == {}


@given(arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([-3.0, -1.0, 0.0, 1.0, 2.0]) | VALUES), st.floats(0.01, 1))
@settings(deadline=None)
def test_top_k_is_the_slow_one(values, share):
    count = max(1, round(share * len(values)))
    kept = sorted(range(len(values)), key=lambda place: (-abs(float(values[place])), place))[:count]
    slow = [float(value) if place in kept else 0.0 for place, value in enumerate(values)]
    assert flat(compress({"w": values}, TopK(share), draws()).seen).tolist() == slow


def test_top_k_is_over_the_whole_update():
    sent = {"large": np.full(10, 5, np.float32), "small": np.full(90, 1, np.float32)}
    seen = compress(sent, TopK(0.1), draws()).seen
    assert seen["large"].all()
    assert not seen["small"].any()


@given(UPDATES, UPDATES, st.sampled_from(["top-k:0.1", "top-k:0.5"]))
@settings(deadline=None)
def test_top_k_and_its_residual_are_the_update_to_the_last_bit(sent, kept, line):
    kept = {name: np.resize(kept[name], array.shape).astype(np.float32) for name, array in sent.items()}
    done = compress(sent, parse(line), draws(), kept)
    for name, array in sent.items():
        assert np.array_equal(done.seen[name] + done.residual[name], array + kept[name])


@given(UPDATES, UPDATES, st.integers(2, 16))
@settings(deadline=None)
def test_the_nearest_level_and_its_residual_are_the_update_up_to_one_rounding(sent, kept, bits):
    kept = {name: np.resize(kept[name], array.shape).astype(np.float32) for name, array in sent.items()}
    done = compress(sent, Quantised(bits, "nearest"), draws(), kept)
    for name, array in sent.items():
        whole, residual = array + kept[name], done.residual[name]
        assert np.array_equal(residual, whole - done.seen[name])
        assert (np.abs(residual) <= np.abs(whole)).all()  # no entry errs by more than itself: a contraction
        error = np.abs(done.seen[name].astype(np.float64) + residual - whole)
        assert (error <= np.spacing(np.abs(residual)).astype(np.float64) / 2).all()


def test_rounding_at_random_has_no_bias_and_the_levels_beside_a_value():
    sent = {
        "w": np.concatenate([draws(1).standard_normal(200), [2.0, -3.0, 0.0]]).astype(np.float32),
        "b": np.full(50, 1e-20, np.float32),
    }
    for bits in (2, 3, 8):
        scheme = Quantised(bits)
        step = flat({name: np.full(array.size, np.abs(array).max() / scheme.top) for name, array in sent.items()})
        seen = np.stack([flat(compress(sent, scheme, draws(seed)).seen).astype(np.float64) for seed in range(2000)])
        assert (np.abs(seen - flat(sent)) < step * (1 + 1e-6)).all()
        z = (seen.mean(0) - flat(sent)) / (step / 2 / np.sqrt(len(seen)))  # a draw varies by half a step at most
        assert np.abs(z).max() < 4.5
        assert abs(z.mean()) < 4 / np.sqrt(z.size)
        assert seen.std(0)[:200].max() > 0


def test_the_finest_levels_are_near_the_values():
    sent = update()
    for rounding, most in (("stochastic", 1.0), ("nearest", 0.5)):
        seen = compress(sent, Quantised(16, rounding), draws()).seen["w"]
        assert np.abs(seen - sent["w"]).max() <= most * np.abs(sent["w"]).max() / 32767 * 1.001


def test_zeros_and_the_largest_value_are_exact():
    sent = {
        "zero": np.zeros(9, np.float32),
        "w": np.array([0.0, -7.3, 1e-45, 7.3], np.float32),
        "none": np.zeros((0, 3), np.float32),
    }
    for bits in (2, 5, 16):
        for rounding in ("stochastic", "nearest"):
            seen = compress(sent, Quantised(bits, rounding), draws()).seen
            assert not seen["zero"].any()
            assert np.array_equal(seen["w"], np.array([0.0, -7.3, 0.0, 7.3], np.float32))
    largest = {"w": np.array([np.finfo(np.float32).max, np.finfo(np.float32).tiny / 8], np.float32)}
    assert compress(largest, Quantised(8, "nearest"), draws()).seen["w"][0] == largest["w"][0]


def descend(scheme, rounds=400):
    """Distance to the minimum of a badly scaled parabola, with gradients that pass the compression."""
    scales, w, kept = np.geomspace(0.1, 1, 30).astype(np.float32), np.ones(30, np.float32), {}
    for number in range(rounds):
        done = compress({"w": -np.float32(0.1) * scales * w}, scheme, draws(number), kept)
        w, kept = w + done.seen["w"], done.residual
    return float(np.linalg.norm(w))


def test_feedback_makes_few_entries_enough():
    assert descend(TopK(0.1)) < 0.3 < descend(WithoutFeedback(0.1)) < 5.4


class WithoutFeedback(TopK):
    feedback = False


class WithFeedback(Quantised):
    feedback = True


def test_feedback_of_an_unbiased_quantiser_of_few_bits_would_grow():
    """Why rounding at random keeps no residual: at two bits its error is larger than the update itself."""
    sizes, kept = [], {}
    for number in range(60):
        done = compress(update(seed=number), WithFeedback(2), draws(number), kept)
        kept = done.residual
        sizes.append(float(np.linalg.norm(flat(kept))))
    assert sizes[-1] > 3 * sizes[0]
    assert compress(update(), Quantised(2), draws()).residual == {}


def test_lines_name_schemes():
    assert parse("none") == Uncompressed()
    assert parse("top-k:0.05") == parse("top-k:share=1/20") == TopK(0.05)
    assert parse("quantised:4:rounding=nearest") == Quantised(4, "nearest")
    assert all(parse(name).name == name for name in SCHEMES)
    for line in (
        "top-k:0",
        "top-k:1.1",
        "top-k:nan",
        "quantised:1",
        "quantised:17",
        "quantised:8.0",
        "quantised:rounding=up",
        "zip",
        "none:1",
    ):
        with pytest.raises(ConfigError):
            parse(line)


@pytest.mark.parametrize("line", LINES)
def test_what_is_not_of_this_scheme_and_network_is_refused(line):
    scheme, sent = parse(line), update()
    good = compress(sent, scheme, draws()).payload
    head = int.from_bytes(good[:8], "little") + 8
    bad = [b"", good[:-1], good + b"\0", good[:head], b"\xff" * len(good), good[:7], bytes(len(good))]
    bad += [good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :] for place in range(head)]
    bad.append(compress(sent, parse("top-k:0.2" if line != "top-k:0.2" else "none"), draws()).payload)
    bad.append(compress({"v": sent["w"], "b": sent["b"]}, scheme, draws()).payload)
    bad.append(compress({"w": sent["w"].T, "b": sent["b"]}, scheme, draws()).payload)
    for payload in bad:
        with pytest.raises(ProtocolError):
            decompress(payload, scheme, shapes_of(sent))


@given(st.data(), st.sampled_from(LINES))
@settings(deadline=None, max_examples=200)
def test_whatever_stands_behind_the_header_is_an_update_or_refused(data, line):
    scheme, sent = parse(line), update(40)
    good = compress(sent, scheme, draws()).payload
    head = int.from_bytes(good[:8], "little") + 8
    size = len(good) - head
    hostile = data.draw(st.binary(min_size=size, max_size=size) | st.sampled_from([b"\xff" * size, bytes(size)]))
    try:
        seen = decompress(good[:head] + hostile, scheme, shapes_of(sent))
    except ProtocolError:
        return
    assert shapes_of(seen) == shapes_of(sent)
    assert np.isfinite(flat(seen)).all()


def hostile(scheme, shapes, **fields):
    """A payload with these arrays in place of honest ones."""
    good = compress({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, scheme, draws()).payload
    body = b"".join(np.asarray(value).tobytes() for value in fields.values())
    return good[: len(good) - len(body)] + body


@pytest.mark.parametrize(
    ("line", "fields", "told"),
    [
        ("none", {"values": np.array([1, 2, 3, np.nan], "<f4")}, "finite"),
        ("none", {"values": np.array([1, 2, 3, np.inf], "<f4")}, "finite"),
        ("top-k:0.5", {"places": np.array([0, 4], "<u4"), "values": np.ones(2, "<f4")}, "below 4"),
        ("top-k:0.5", {"places": np.array([0, 2**32 - 1], "<u4"), "values": np.ones(2, "<f4")}, "below 4"),
        ("top-k:0.5", {"places": np.array([2, 2], "<u4"), "values": np.ones(2, "<f4")}, "each once"),
        ("top-k:0.5", {"places": np.array([2, 1], "<u4"), "values": np.ones(2, "<f4")}, "ascending"),
        ("top-k:0.5", {"places": np.array([1, 2], "<u4"), "values": np.array([1, np.nan], "<f4")}, "finite"),
        ("quantised:8", {"scales": np.array([np.nan], "<f4"), "levels": np.zeros(4, "u1")}, "scales"),
        ("quantised:8", {"scales": np.array([-1], "<f4"), "levels": np.zeros(4, "u1")}, "scales"),
        ("quantised:8", {"scales": np.array([1], "<f4"), "levels": np.array([0, 0, 0, 255], "u1")}, "levels up to 254"),
        ("quantised:5", {"scales": np.array([1], "<f4"), "levels": np.array([0, 0, 1], "u1")}, "zeros behind"),
    ],
)
def test_arrays_that_no_client_can_have_made_are_refused(line, fields, told):
    scheme, shapes = parse(line), {"w": (2, 2)}
    with pytest.raises(ProtocolError, match=told):
        decompress(hostile(scheme, shapes, **fields), scheme, shapes)


def test_a_payload_never_decides_how_much_memory_is_taken():
    scheme, shapes = TopK(0.001), {"w": (1000,)}
    long = (2**60).to_bytes(8, "little") + b"{" * 1_000_000
    tracemalloc.start()
    for payload in (long, compress(update(), Quantised(8), draws()).payload):
        with pytest.raises(ProtocolError):
            decompress(payload, scheme, shapes)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_what_cannot_be_compressed_is_said():
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match="diverged"):
            compress({"w": np.array([1, value], np.float32)}, TopK(0.5), draws())
    most = {"w": np.full(2, 3e38, np.float32)}
    with pytest.raises(DataError, match="diverged"):
        compress(most, TopK(0.5), draws(), most)
    with pytest.raises(ConfigError, match="another network"):
        compress(update(), TopK(0.5), draws(), {"w": update()["w"]})
    for nothing in ({}, {"w": np.zeros((0, 3), np.float32)}):
        with pytest.raises(ConfigError, match="at least 1 value"):
            compress(nothing, TopK(0.5), draws())
