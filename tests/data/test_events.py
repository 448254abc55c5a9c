"""The event camera against a plain per-pixel loop, its invariants, and its frames against its event list."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.data import Camera, from_arrays, load, simulate, simulate_frames
from trustsnn.data.event_frames import events_of
from trustsnn.data.events import DURATION_US, saccades
from trustsnn.errors import ConfigError, DataError


def offset_at(step: int, steps: int, reach_x: int, reach_y: int) -> tuple[float, float]:
    """Where the image is after `step` rendered frames: three straight moves between the four corners of the path."""
    corners = [(0.0, 0.0), (reach_x / 2, float(reach_y)), (float(reach_x), 0.0), (0.0, 0.0)]
    move, part = min(step // steps, 2), step - min(step // steps, 2) * steps
    (x0, y0), (x1, y1) = corners[move], corners[move + 1]
    return x0 + (x1 - x0) * part / steps, y0 + (y1 - y0) * part / steps


def intensity_at(image: np.ndarray, x: float, y: float) -> float:
    """Bilinear interpolation, dark outside of the image."""
    left, top = math.floor(x), math.floor(y)
    total = 0.0
    for row, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += weight_x * weight_y * float(image[row, column])
    return total


def reference(image: np.ndarray, camera: Camera) -> list[tuple[int, int, int, int]]:
    """ESIM one pixel, one rendered frame and one event at a time: (t, y, x, p), sorted."""
    height, width = image.shape
    canvas = round(height * 34 / 28), round(width * 34 / 28)
    reach_x, reach_y = max(1, round(width / 4)), max(1, round(height / 4))
    steps = next(n for n in range(105, 10_000) if n % reach_x == 0 and n % reach_y == 0)
    tolerance = 1e-9 * camera.contrast
    events = []
    for y in range(canvas[0]):
        for x in range(canvas[1]):
            before = level = math.log(camera.eps + intensity_at(image, x, y))
            last = -camera.refractory_us
            for step in range(1, 3 * steps + 1):
                dx, dy = offset_at(step, steps, reach_x, reach_y)
                now = math.log(camera.eps + intensity_at(image, x - dx, y - dy))
                sign = 1 if now > before else -1
                while (now - level) * sign >= camera.contrast - tolerance:
                    level += sign * camera.contrast
                    share = min(max((level - before) / (now - before), 0.0), 1.0)
                    time = round((step - 1 + share) * 105_000 / steps)
                    if time - last >= camera.refractory_us:
                        events.append((time, y, x, int(sign > 0)))
                        last = time
                before = now
    return sorted(events)


def as_tuples(events: np.ndarray) -> list[tuple[int, int, int, int]]:
    return sorted((int(e["t"]), int(e["y"]), int(e["x"]), int(e["p"])) for e in events)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Grey levels k / 16, with flat parts, so that intensities return exactly to where they were."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 17, (height, width)) / 16 * (draw.random((height, width)) < 0.6)


@pytest.mark.parametrize(
    ("height", "width", "camera"),
    [
        (8, 8, Camera()),
        (8, 8, Camera(contrast=0.11, eps=0.05, refractory_us=1)),
        (8, 8, Camera(contrast=0.05, eps=0.01, refractory_us=3000)),
        (6, 11, Camera(contrast=0.2)),
        (1, 4, Camera(contrast=0.2)),
    ],
)
def test_the_fast_simulator_agrees_with_the_plain_loop(height: int, width: int, camera: Camera) -> None:
    image = picture(height, width, seed=height * width)
    expected = reference(image, camera)
    got = as_tuples(simulate(image, camera))
    assert len(expected) > 20
    assert [event[1:] for event in sorted(got, key=lambda e: (e[1], e[2], e[0]))] == [
        event[1:] for event in sorted(expected, key=lambda e: (e[1], e[2], e[0]))
    ]
    assert np.abs(np.array(got)[:, 0] - np.array(expected)[:, 0]).max() <= 1


def test_the_reference_steps_on_through_the_dead_time() -> None:
    image = picture(8, 8, seed=5)
    every = simulate(image, Camera(contrast=0.05, refractory_us=1))
    some = simulate(image, Camera(contrast=0.05, refractory_us=5000))
    assert 0 < len(some) < len(every) / 2
    assert set(as_tuples(some)) < set(as_tuples(every)), "a dropped event must not move the ones after it"
    for y, x in {(int(e["y"]), int(e["x"])) for e in some}:
        times = np.sort(some["t"][(some["y"] == y) & (some["x"] == x)])
        assert (np.diff(times) >= 5000).all()


def test_the_path_is_the_one_of_nmnist() -> None:
    path = saccades(28, 28)
    assert path.canvas == (34, 34)
    assert path.steps >= 105
    np.testing.assert_allclose(path.offsets[[0, path.steps, 2 * path.steps, 3 * path.steps]], [(0, 0), (3.5, 7), (7, 0), (0, 0)])
    for size in (8, 9, 16, 30, 32, 64):
        path = saccades(size, size + 3)
        assert path.steps >= 105
        cells = path.offsets[:-1].reshape(-1, path.cell, 2)
        ends = path.offsets[path.cell :: path.cell]
        low, high = np.minimum(cells.min(axis=1), ends), np.maximum(cells.max(axis=1), ends)
        assert (high - np.floor(low + 1e-9) <= 1 + 1e-9).all(), "between two cells the interpolation has a kink"


@given(st.integers(0, 1000), st.sampled_from([1, 3, 10, 40]))
@settings(max_examples=15, deadline=None)
def test_frames_are_the_histogram_of_the_events(seed: int, frames: int) -> None:
    images = np.stack([picture(8, 8, seed), np.zeros((8, 8)), picture(8, 8, seed + 1)])
    counts = simulate_frames(images, frames, counts=True)
    assert counts.shape == (3, frames, 2, 10, 10)
    for image, got in zip(images, counts, strict=True):
        expected = np.zeros_like(got)
        for event in simulate(image):
            expected[min(int(event["t"]) * frames // DURATION_US, frames - 1), event["p"], event["y"], event["x"]] += 1
        np.testing.assert_array_equal(got, expected)
    assert counts[1].sum() == 0
    assert counts.max() <= Camera().max_count(frames)
    np.testing.assert_array_equal(simulate_frames(images, frames), counts > 0)


def test_events_are_sorted_and_inside_the_recording() -> None:
    events = simulate(picture(28, 28, 1))
    assert events.dtype.names == ("x", "y", "t", "p")
    assert (np.diff(events["t"]) >= 0).all()
    assert events["t"].min() > 0
    assert events["t"].max() <= DURATION_US
    assert set(events["p"]) == {0, 1}
    assert len(simulate(np.full((8, 8), 0.0))) == 0


def test_one_sample_and_a_batch_of_many_give_the_same_bits() -> None:
    images = np.random.default_rng(3).random((33, 9, 7))
    whole = simulate_frames(images, 6, counts=True)
    single = np.concatenate([simulate_frames(image[None], 6, counts=True) for image in images])
    np.testing.assert_array_equal(single, whole)


def test_an_edge_that_comes_is_on_and_one_that_goes_is_off() -> None:
    image = np.zeros((8, 8))
    image[3, 3] = 1.0
    events = simulate(image)
    start = events[(events["x"] == 3) & (events["y"] == 3)]
    assert start["p"][0] == 0, "the bright pixel leaves its place"
    below = events[(events["x"] == 3) & (events["y"] == 4)]
    assert below["p"][0] == 1, "and comes to the one below"


def test_event_data_sets_are_lazy_binary_and_the_same_however_they_are_read() -> None:
    images = load("digits", "test").take(70)
    data = events_of(images, frames=5)
    assert (data.domain, data.max_count, data.sample_shape, data.name) == ("events-binary", None, (5, 2, 10, 10), "events:digits")
    whole, labels = data.batch(range(70))
    assert whole.dtype == np.float32
    assert set(np.unique(whole)) == {0.0, 1.0}
    np.testing.assert_array_equal(labels, images.labels)
    again = events_of(images, frames=5)
    single = np.concatenate([again.batch([i])[0] for i in (69, 3, 3, 0)])
    np.testing.assert_array_equal(single, whole[[69, 3, 3, 0]])
    np.testing.assert_array_equal(again.select([5, 69]).batch([1, 0])[0], whole[[69, 5]])
    np.testing.assert_array_equal(again.batch(range(70))[0], whole)


@pytest.mark.parametrize("frames", [10, 1])
def test_counts_are_whole_and_bounded(frames: int) -> None:
    images = load("digits", "test").take(20)
    data = events_of(images, frames=frames, counts=True, camera=Camera(contrast=0.05, refractory_us=1000))
    values, _ = data.batch(range(20))
    assert data.domain == "events-count"
    assert data.max_count == Camera().max_count(frames)
    np.testing.assert_array_equal(values, np.rint(values))
    assert 1 < values.max() <= data.max_count
    binary, _ = events_of(images, frames=frames, camera=Camera(contrast=0.05)).batch(range(20))
    np.testing.assert_array_equal(binary, values > 0)


def test_ids_and_hashes_tell_the_settings_apart() -> None:
    images = load("digits", "test").take(5)
    made = [
        images,
        events_of(images),
        events_of(images, 20),
        events_of(images, counts=True),
        events_of(images, camera=Camera(contrast=0.4)),
    ]
    assert len({data.ids[0] for data in made}) == len(made)
    assert len({data.sha256 for data in made}) == len(made)
    assert events_of(images).ids == made[1].ids
    assert events_of(images.select([4, 0])).ids == (made[1].ids[4], made[1].ids[0])


def test_colour_is_seen_as_luminance() -> None:
    x = np.random.default_rng(0).random((2, 3, 8, 8))
    data = events_of(from_arrays(x, [0, 1]), 4)
    grey = np.tensordot(x.astype(np.float32), [0.299, 0.587, 0.114], axes=(1, 0))
    np.testing.assert_array_equal(data.batch([0, 1])[0], simulate_frames(grey, 4))


def test_events_by_name() -> None:
    data = load("events:digits", "test", frames=4, counts=True)
    assert (len(data), data.sample_shape, data.domain) == (360, (4, 2, 10, 10), "events-count")
    with pytest.raises(DataError, match="expected an image data set, got events-binary"):
        load("events:events:digits")


def test_wrong_settings() -> None:
    for wrong in ({"contrast": 0.0}, {"eps": 0.0}, {"contrast": float("nan")}, {"refractory_us": 0}):
        with pytest.raises(ConfigError, match="expected"):
            Camera(**wrong)
    with pytest.raises(ConfigError, match="frames"):
        simulate_frames(np.zeros((1, 8, 8)), 0)
    for image in (np.full((8, 8), np.nan), np.full((8, 8), 1.5), np.zeros(8)):
        with pytest.raises(DataError, match="event simulation"):
            simulate(image)
