"""The validation layer: every answer that is broken or out of proportion is refused or cut back with a reason, whatever arrives."""

from __future__ import annotations

import re
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra

from trustsnn.federated.config import Limits
from trustsnn.federated.validation import Answer, validate

SHAPES = {"bias": (3,), "scale": (), "weight": (2, 3)}


def update(size=1.0, seed=0):
    """An update of the model's shapes, of the norm `size`."""
    values = np.random.default_rng(seed).standard_normal(10)
    values = (size * values / np.linalg.norm(values)).astype(np.float32)
    return {"bias": values[:3], "scale": values[3:4].reshape(()), "weight": values[4:].reshape(2, 3)}


def honest(count=4):
    return {client: Answer(update(1 + client / 10, client), 100 + client) for client in range(count)}


def changed(**tensors):
    return {**update(), **tensors}


def with_value(value):
    weight = update()["weight"].copy()
    weight[1, 2] = value
    return changed(weight=weight)


def slow_norm(sent):
    return float(np.linalg.norm(np.concatenate([np.asarray(each, np.float64).ravel() for each in sent.values()])))


BAD_UPDATES = {
    "nan": (with_value(np.nan), "weight holds values that are not finite"),
    "inf": (with_value(np.inf), "weight holds values that are not finite"),
    "minus inf": (with_value(-np.inf), "weight holds values that are not finite"),
    "nan scalar": (changed(scale=np.array(np.nan, np.float32)), "scale holds values that are not finite"),
    "transposed": (changed(weight=update()["weight"].T), r"weight has the shape \[3, 2\], not \[2, 3\]"),
    "flat": (changed(weight=update()["weight"].ravel()), r"weight has the shape \[6\], not \[2, 3\]"),
    "cut short": (changed(bias=update()["bias"][:-1]), r"bias has the shape \[2\], not \[3\]"),
    "no values": (changed(bias=np.zeros(0, np.float32)), r"bias has the shape \[0\], not \[3\]"),
    "scalar as vector": (changed(scale=np.zeros(1, np.float32)), r"scale has the shape \[1\], not \[\]"),
    "would broadcast": (changed(weight=np.zeros((1, 3), np.float32)), r"weight has the shape \[1, 3\], not \[2, 3\]"),
    "float64": (changed(weight=update()["weight"].astype(np.float64)), "weight is float64, not float32"),
    "float16": (changed(weight=update()["weight"].astype(np.float16)), "weight is float16, not float32"),
    "bytes swapped": (changed(weight=update()["weight"].astype(">f4")), "weight is >f4, not float32"),
    "int": (changed(weight=np.zeros((2, 3), np.int64)), "weight is int64, not float32"),
    "bool": (changed(weight=np.zeros((2, 3), bool)), "weight is bool, not float32"),
    "complex": (changed(weight=np.zeros((2, 3), np.complex64)), "weight is complex64, not float32"),
    "objects": (changed(weight=np.full((2, 3), None)), "weight is object, not float32"),
    "text": (changed(weight="weights"), "weight is str, not float32"),
    "a number": (changed(scale=1.0), "scale is float, not float32"),
    "nothing": (changed(bias=None), "bias is NoneType, not float32"),
    "missing": ({name: each for name, each in update().items() if name != "bias"}, "missing bias$"),
    "unknown": (changed(more=np.zeros(1, np.float32)), "unknown more$"),
    "renamed": ({"Bias" if name == "bias" else name: each for name, each in update().items()}, "missing bias; unknown Bias$"),
    "empty": ({}, "missing bias, scale, weight$"),
    "long names": (changed(**{f"{i}" * 9999: np.zeros(1, np.float32) for i in range(9)}), "unknown 0{60}, 1{60}, 2{60} and more$"),
}  # fmt: skip


@pytest.mark.parametrize("others", [0, 4])
@pytest.mark.parametrize("kind", BAD_UPDATES)
def test_an_update_that_is_not_of_the_model_is_refused(kind, others):
    sent, reason = BAD_UPDATES[kind]
    verdict = validate({**honest(others), 7: Answer(sent, 100)}, SHAPES, Limits())
    assert set(verdict.updates) == set(verdict.samples) == set(range(others))
    assert list(verdict.refused) == [7]
    assert re.search(reason, verdict.refused[7])
    assert len(verdict.refused[7]) < 300


BAD_COUNTS = [
    -1, 0, -0.0, 0.5, 2.5, float("nan"), float("inf"), float("-inf"), True, False, None, "100", [100], b"1", 2**53, 10**400, 1e300,
    [1] * 10**5, np.float64(100), {},
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(BAD_COUNTS)))
def test_a_count_of_samples_that_is_no_whole_number_from_1_is_refused(place):
    verdict = validate({**honest(), 7: Answer(update(), BAD_COUNTS[place])}, SHAPES, Limits())
    assert set(verdict.updates) == set(range(4))
    assert "samples stand behind it, not a whole number from 1" in verdict.refused[7]
    assert len(verdict.refused[7]) < 300


def test_good_answers_go_through_as_they_came():
    sent = {**honest(), 4: Answer(changed(bias=np.asfortranarray(update()["bias"])), 100.0)}
    verdict = validate(sent, SHAPES, Limits())
    assert not verdict.refused
    assert not verdict.capped
    assert list(verdict.updates) == [0, 1, 2, 3, 4]
    assert verdict.samples == {0: 100, 1: 101, 2: 102, 3: 103, 4: 100}
    assert type(verdict.samples[4]) is int
    for client, answer in sent.items():
        for name in SHAPES:
            np.testing.assert_array_equal(verdict.updates[client][name], answer.update[name])


def test_the_order_of_the_answers_does_not_matter():
    sent = {**honest(), 7: Answer(update(1e6), 10**9), 5: Answer(update(1, 5), 10**9)}
    one, two = validate(sent, SHAPES, Limits()), validate(dict(reversed(sent.items())), SHAPES, Limits())
    assert list(one.updates) == list(two.updates) == [0, 1, 2, 3, 5]
    assert (one.samples, one.refused, one.capped) == (two.samples, two.refused, two.capped)


@pytest.mark.parametrize("times", [10.5, 1e6, 1e30])
def test_an_update_out_of_proportion_is_refused(times):
    verdict = validate({**honest(), 7: Answer(update(1.2 * times), 100)}, SHAPES, Limits())
    assert set(verdict.updates) == set(range(4))
    assert re.fullmatch(r"its norm of \S+ is above 12", verdict.refused[7])  # the median norm of the five is 1.2
    assert 7 in validate({**honest(), 7: Answer(update(1.2 * 9.9), 100)}, SHAPES, Limits()).updates


def test_the_largest_of_all_values_is_measured_without_overflow():
    huge = {name: np.full(shape, np.finfo(np.float32).max) for name, shape in SHAPES.items()}
    assert "its norm of 1.076e+39" in validate({**honest(), 7: Answer(huge, 100)}, SHAPES, Limits()).refused[7]


def test_many_samples_count_as_three_times_the_median():
    verdict = validate({**honest(), 7: Answer(update(), 10**9)}, SHAPES, Limits())
    assert verdict.samples[7] == 306  # the median of 100, 101, 102, 103 and a billion is 102
    assert verdict.capped == {7: "1000000000 samples counted as 306"}
    assert not verdict.refused


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ratios_hold_from_three_clients_on(count):
    sent = {**{client: Answer(update(), 100) for client in range(count - 1)}, 7: Answer(update(1e6), 10**9)}
    limits = Limits(norm_ratio=1.5, samples_ratio=1.5)
    verdict = validate(sent, SHAPES, limits)
    assert (7 in verdict.refused) == (count == 3)
    many = validate({**sent, 7: Answer(update(), 10**9)}, SHAPES, limits)
    assert many.samples[7] == (150 if count == 3 else 10**9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fixed_bounds_hold_always(count):
    sent = {**{client: Answer(update(), 100) for client in range(count - 1)}, 7: Answer(update(3), 10**9)}
    verdict = validate(sent, SHAPES, Limits(norm=2, samples=150))
    assert verdict.refused == {7: "its norm of 3 is above 2"}
    verdict = validate({**sent, 7: Answer(update(1.9), 10**9)}, SHAPES, Limits(norm=2, samples=150))
    assert verdict.samples == {**dict.fromkeys(range(count - 1), 100), 7: 150}


def test_a_broken_answer_does_not_move_the_medians():
    """Of three answers one is broken: two are left, and the ratios, which go by the answers that can be read, do not hold."""
    sent = {0: Answer(update(), 100), 1: Answer(update(50), 100), 2: Answer(with_value(np.nan), 100)}
    assert set(validate(sent, SHAPES, Limits()).updates) == {0, 1}
    more = {**sent, 3: Answer(update(), 100), 4: Answer({}, 100)}
    assert set(validate(more, SHAPES, Limits()).updates) == {0, 3}


def test_a_lying_majority_is_not_seen_and_does_no_harm_to_the_server():
    sent = {**honest(2), **{client: Answer(update(1e6, client), 10**9) for client in (5, 6, 7)}}
    verdict = validate(sent, SHAPES, Limits())
    assert {5, 6, 7} <= set(verdict.updates)
    nothing = {client: Answer({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, 100) for client in (5, 6, 7)}
    assert set(validate({**honest(2), **nothing}, SHAPES, Limits()).updates) == {5, 6, 7}  # ten times nothing is nothing


def test_no_answers_and_none_that_is_let_through():
    assert validate({}, SHAPES, Limits()).updates == {}
    verdict = validate({client: Answer({}, 1) for client in range(3)}, SHAPES, Limits())
    assert not verdict.updates
    assert list(verdict.refused) == [0, 1, 2]


DTYPES = st.sampled_from(["f4", "f4", "f4", "f8", "f2", ">f4", "i4", "u1", "?", "c8", "U3"])
TENSORS = st.one_of(
    DTYPES.flatmap(lambda dtype: extra.arrays(dtype, st.one_of(st.sampled_from([*SHAPES.values()]), extra.array_shapes(min_side=0)))),
    st.none(), st.floats(), st.text(max_size=3), st.binary(max_size=3), st.lists(st.floats(), max_size=3),
)  # fmt: skip
FITTING = st.fixed_dictionaries({name: extra.arrays("f4", shape) for name, shape in SHAPES.items()})
UPDATES = st.one_of(
    FITTING, FITTING, st.dictionaries(st.one_of(st.sampled_from([*SHAPES]), st.text(max_size=5)), TENSORS, max_size=4)
)
COUNTS = st.one_of(
    st.integers(1, 1000), st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3), st.lists(st.integers(), max_size=3)
)  # fmt: skip
ANSWERS = st.dictionaries(st.integers(0, 30), st.builds(Answer, UPDATES, COUNTS), max_size=6)
LIMITS = st.builds(
    Limits, norm=st.none() | st.floats(1e-3, 1e6), norm_ratio=st.floats(1.001, 100), samples=st.none() | st.integers(1, 10**4),
    samples_ratio=st.floats(1, 100),
)  # fmt: skip


@given(ANSWERS, LIMITS)
@settings(max_examples=250, deadline=None)
def test_whatever_arrives_never_raises_and_what_is_let_through_is_sound(answers, limits):
    verdict = validate(answers, SHAPES, limits)
    assert verdict.updates.keys() | verdict.refused.keys() == answers.keys()
    assert not verdict.updates.keys() & verdict.refused.keys()
    assert verdict.capped.keys() <= verdict.samples.keys() == verdict.updates.keys()
    assert all(verdict.refused.values())
    for sent in verdict.updates.values():
        assert {name: each.shape for name, each in sent.items()} == SHAPES
        assert all(each.dtype == np.float32 and np.isfinite(each).all() for each in sent.values())
    assert all(type(count) is int and count >= 1 for count in verdict.samples.values())
    readable = {c: slow_norm(answers[c].update) for c in answers if c in verdict.updates or "its norm" in verdict.refused[c]}
    norms = [readable[client] for client in verdict.updates]
    if limits.norm is not None:
        assert all(size <= limits.norm * (1 + 1e-9) for size in norms)
    if limits.samples is not None:
        assert all(count <= limits.samples for count in verdict.samples.values())
    if len(readable) > 2:
        assert all(size <= limits.norm_ratio * median(readable.values()) * (1 + 1e-9) for size in norms)
    if len(verdict.updates) > 2:
        middle = median(float(answers[client].samples) for client in verdict.updates)
        assert all(count <= limits.samples_ratio * middle for count in verdict.samples.values())
