"""Ids, hashes, subsets and the checks at the boundary."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.data import Dataset, from_arrays
from trustsnn.errors import ConfigError, DataError


def some(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8), draw.integers(0, 5, n)


def test_a_batch_has_the_values_in_the_asked_order() -> None:
    x, y = some()
    data = from_arrays(x, y)
    values, labels = data.batch([7, 2, 7])
    assert values.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(values, x[[7, 2, 7]].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(labels, y[[7, 2, 7]])
    assert data.batch([])[0].shape == (0, 1, 4, 4)
    with pytest.raises(IndexError):
        data.batch([40])


def test_floats_and_two_axes_are_taken() -> None:
    x = np.random.default_rng(0).random((6, 3, 5))
    data = from_arrays(x, np.arange(6))
    assert data.sample_shape == (1, 3, 5)
    np.testing.assert_array_equal(data.batch([5])[0][0, 0], x[5].astype(np.float32))


def test_later_changes_of_the_callers_array_do_not_reach_the_data_set() -> None:
    x, y = some()
    data = from_arrays(x, y)
    before = data.batch([0])
    x[:], y[:] = 0, 0
    np.testing.assert_array_equal(data.batch([0])[0], before[0])
    np.testing.assert_array_equal(data.batch([0])[1], before[1])


def test_torch_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    x, y = some()
    data = from_arrays(torch.tensor(x), torch.tensor(y))
    assert data.ids == from_arrays(x, y).ids
    floats = torch.rand(3, 1, 2, 2, requires_grad=True)
    assert from_arrays(floats, torch.arange(3)).batch([1])[0].tolist() == floats[1:2].tolist()
    assert len(from_arrays(floats.bfloat16(), torch.arange(3))) == 3


@given(st.permutations(range(12)))
@settings(max_examples=25, deadline=None)
def test_shuffling_leaves_every_id_and_hash(order: list[int]) -> None:
    x, y = some(12)
    x[5], y[5] = x[3], y[3]
    data, shuffled = from_arrays(x, y, classes=5), from_arrays(x[order], y[order], classes=5)
    assert sorted(shuffled.ids) == sorted(data.ids)
    first = {data.ids[i].split("-")[0]: (x[i].tobytes(), y[i]) for i in range(12)}
    assert {shuffled.ids[i].split("-")[0]: (x[j].tobytes(), y[j]) for i, j in enumerate(order)} == first
    assert shuffled.sha256 == data.sha256
    assert shuffled.samples_sha256 == data.samples_sha256
    assert shuffled.take(4, seed=3).ids == data.take(4, seed=3).ids
    np.testing.assert_array_equal(shuffled.take(4, seed=3).batch(range(4))[0], data.take(4, seed=3).batch(range(4))[0])


def test_duplicates_get_a_suffix() -> None:
    x, y = some(4)
    data = from_arrays(x[[0, 1, 0, 0]], y[[0, 1, 0, 0]])
    assert data.ids[2:] == (f"{data.ids[0]}-1", f"{data.ids[0]}-2")
    assert len(set(data.ids)) == 4


def test_the_id_depends_on_value_label_and_shape() -> None:
    x, y = np.zeros((1, 1, 2, 8), np.uint8), np.array([1])
    base = from_arrays(x, y, classes=3)
    changed = x.copy()
    changed[0, 0, 1, 7] = 1
    others = [
        from_arrays(changed, y, classes=3),
        from_arrays(x, y + 1, classes=3),
        from_arrays(x.reshape(1, 1, 4, 4), y, classes=3),
    ]
    assert len({base.ids[0], *(other.ids[0] for other in others)}) == 4
    assert len({base.sha256, *(other.sha256 for other in others)}) == 4


def test_take_is_nested_seeded_and_sorted_by_id() -> None:
    data = from_arrays(*some(60))
    small, large = data.take(10, seed=1), data.take(20, seed=1)
    assert set(small.ids) < set(large.ids)
    assert list(large.ids) == sorted(large.ids)
    assert set(data.take(10, seed=2).ids) != set(small.ids)
    assert len(data.take(1000)) == 60
    assert small.sha256 == data.sha256
    assert small.samples_sha256 != data.samples_sha256
    with pytest.raises(ConfigError, match="at least 1"):
        data.take(0)


def test_select_of_a_selection_keeps_values_labels_and_ids_together() -> None:
    x, y = some()
    data = from_arrays(x, y)
    twice = data.select([9, 4, 30, 1]).select([2, 0])
    assert twice.ids == (data.ids[30], data.ids[9])
    np.testing.assert_array_equal(twice.batch([0, 1])[0], data.batch([30, 9])[0])
    np.testing.assert_array_equal(twice.labels, y[[30, 9]])
    with pytest.raises(DataError, match="0 samples"):
        data.select([])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_a_value_out_of_range_is_an_error_that_names_the_sample(bad: float) -> None:
    x = np.full((2000, 1, 2, 2), 0.5)
    x[1500, 0, 1, 0] = bad
    with pytest.raises(DataError, match=r"sample 1500: expected values in \[0, 1\], got"):
        from_arrays(x, np.zeros(2000, int))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 1, 5]), r"sample 2: expected a label in 0\.\.4, got 5"),
        (np.array([0, -1, 1]), r"sample 1: expected a label in 0\.\.4, got -1"),
        (np.array([0, 1]), "expected 3 labels"),
        (np.array([[0], [1], [1]]), "expected 3 labels"),
        (np.array([0.0, 1.0, 1.0]), "whole-number type"),
        (np.array([], int), "expected 3 labels"),
    ],
)
def test_wrong_labels(y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(np.zeros((3, 1, 2, 2)), y, classes=5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 1, 2, 2)), "at least 1 sample"),
        (np.zeros((3, 4)), r"images \[N, C, H, W\]"),
        (np.zeros((3, 1, 0, 2)), r"images \[N, C, H, W\]"),
        (np.zeros((3, 1, 2, 2), int), "floats in"),
        (np.full((3, 1, 2, 2), "a"), "numbers"),
        (np.full((3, 1, 2, 2), None), "numbers"),
    ],
)
def test_wrong_arrays(x: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(x, np.zeros(len(x), int))


def test_events_in_arrays_are_checked_against_their_domain() -> None:
    x = np.random.default_rng(0).integers(0, 4, (5, 3, 2, 4, 4))
    y = np.arange(5)
    counted = from_arrays(x, y, domain="events-count")
    assert counted.max_count == 3
    np.testing.assert_array_equal(counted.batch(range(5))[0], x)
    assert from_arrays(x.astype(float), y, domain="events-count").ids == counted.ids
    with pytest.raises(DataError, match=r"whole numbers in 0\.\.2, got 3"):
        from_arrays(x, y, domain="events-count", max_count=2)
    with pytest.raises(DataError, match=r"whole numbers in 0\.\.1"):
        from_arrays(x, y, domain="events-binary")
    with pytest.raises(DataError, match="whole numbers"):
        from_arrays(np.full((5, 3, 2, 4, 4), 0.5), y, domain="events-binary")
    with pytest.raises(DataError, match="NaN"):
        from_arrays(np.full((5, 3, 2, 4, 4), np.nan), y, domain="events-count")
    assert from_arrays(x > 1, y, domain="events-binary").max_count is None
    with pytest.raises(DataError, match="event frames"):
        from_arrays(x[:, :, :1], y, domain="events-binary")
    with pytest.raises(DataError, match="domain"):
        from_arrays(x, y, domain="event")  # type: ignore[arg-type]
    large = from_arrays(x * 1000, y, domain="events-count")
    np.testing.assert_array_equal(large.batch(range(5))[0], x * 1000)


def test_the_constructor_checks_ids_and_max_count() -> None:
    data = from_arrays(*some(3))
    with pytest.raises(DataError, match="3 ids"):
        Dataset("n", "test", "image", data.values, data.labels, data.classes, data.ids[:2], "0")
    with pytest.raises(DataError, match="max_count"):
        Dataset("n", "test", "image", data.values, data.labels, data.classes, data.ids, "0", 3)


def test_names_are_listed_without_numpy_and_nothing_here_imports_torch() -> None:
    light = "import sys, trustsnn.data as d; d.names(); d.load; sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], timeout=60).returncode == 0
    whole = "import sys, trustsnn.data as d; d.load('events:digits').batch([0]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", whole], timeout=60).returncode == 0
