"""Natural corruptions of images and events: invariants, independent references, and the mean corruption error."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from trustsnn.attacks.corruptions import (
    BENCHMARK,
    CORRUPTIONS,
    FAMILIES,
    SEVERITIES,
    CorruptionRow,
    evaluate_corruptions,
    mean_corruption_error,
)
from trustsnn.attacks.corruptions.textures import motion_blur_along, plasma_fractal, zoomed
from trustsnn.errors import ConfigError, DataError
from trustsnn.models import build
from trustsnn.rng import Draws
from trustsnn.statistics import wilson

IMAGES = [name for family, names in FAMILIES.items() if family != "events" for name in names]
EVENTS = list(FAMILIES["events"])


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seed, "test", tuple(f"s{i}" for i in range(count)))


def smooth_images(count: int, channels: int, size: int) -> torch.Tensor:
    noise = np.random.default_rng(0).standard_normal((count, channels, size, size))
    images = ndimage.gaussian_filter(noise, (0, 0, size / 12, size / 12))
    low, high = images.min((2, 3), keepdims=True), images.max((2, 3), keepdims=True)
    return torch.from_numpy((images - low) / (high - low)).float()


def frames(count: int, ceiling: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    events = torch.rand(count, 6, 2, 7, 9, generator=generator)
    return (events < 0.2).float() if ceiling == 1 else (events**4 * (ceiling + 1)).floor()


def distances(name: str, x: torch.Tensor) -> np.ndarray:
    moved = [CORRUPTIONS.load(name)(x, severity, draws(len(x))) - x for severity in SEVERITIES]
    return np.array([float(each.flatten(1).norm(dim=1).mean()) for each in moved])


@pytest.fixture(scope="module")
def digits(digits_test):
    x, y = digits_test.batch(range(100))
    return torch.from_numpy(x), torch.from_numpy(y)


def test_every_corruption_has_a_family_and_the_benchmark_has_fifteen():
    listed = [name for names in FAMILIES.values() for name in names]
    assert sorted(listed) == sorted(CORRUPTIONS.bundled)
    assert len(BENCHMARK) == 15


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(IMAGES),
    severity=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kind=st.sampled_from(["noise", "black", "white", "binary"]),
    seed=st.integers(0, 5),
)
def test_a_corrupted_image_is_an_image(name, severity, channels, height, width, kind, seed):
    if name == "saturate":
        channels = 3
    x = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(seed))
    x = {"noise": x, "black": x * 0, "white": x * 0 + 1, "binary": x.round()}[kind]
    before = x.clone()
    result = CORRUPTIONS.load(name)(x, severity, draws(2, seed))
    assert result.shape == x.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", IMAGES)
def test_images_large_and_small_do_not_depend_on_batch_order_or_earlier_calls(name):
    for x in (smooth_images(3, 3, 12), smooth_images(2, 3, 70)):
        corrupt, keys = CORRUPTIONS.load(name), draws(len(x))
        whole = corrupt(x, 3, keys)
        back = list(range(len(x)))[::-1]
        assert torch.equal(corrupt(x[back], 3, keys.select(back)), whole[back])
        assert torch.equal(torch.cat([corrupt(x[i : i + 1], 3, keys.select([i])) for i in range(len(x))]), whole)
        if name not in ("defocus-blur", "gaussian-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg", "saturate"):
            assert not torch.equal(corrupt(x, 3, draws(len(x), seed=1)), whole)


# What the benchmark's own constants do not make grow at every step: elastic trades displacement for affine shift, glass
# trades blur for rounds, spatter changes from water to mud, frost's image fades as its ice thickens, small images round
# the number of large pixels, and saturate first takes colour away and then adds it.
UNEVEN = ("elastic", "glass-blur", "spatter", "saturate", "pixelate", "snow", "frost")


@pytest.mark.parametrize("name", IMAGES)
def test_severity_grows_the_distance(name, digits):
    sets = {"small": smooth_images(8, 3, 32), "large": smooth_images(6, 3, 72)}
    if name != "saturate":
        sets["digits"] = digits[0]
    for kind, x in sets.items():
        found = distances(name, x)
        assert (found > 0).all(), (kind, found)
        if name not in UNEVEN:
            assert (np.diff(found) >= -0.02 * found[:-1]).all(), (kind, found)
            assert found[4] > 1.1 * found[0], (kind, found)
        elif name not in ("elastic", "saturate"):
            assert found[3:].mean() > 0.98 * found[:2].mean(), (kind, found)


def test_noise_has_the_constants_of_the_papers():
    """Grey images: the spread of what is added equals the constants of CIFAR-10-C (up to 64 pixels) and ImageNet-C."""
    for size, gaussian, photons, impulse in ((32, 0.10, 50, 0.07), (128, 0.38, 3, 0.27)):
        x = torch.full((64 if size == 32 else 4, 3, size, size), 0.5)
        keys = draws(len(x))
        inside = CORRUPTIONS.load("gaussian-noise")(x * 1.0, 5, keys) - x
        clipped = torch.distributions.Normal(0.0, gaussian).sample((200_000,)).clamp(-0.5, 0.5)
        assert float(inside.std()) == pytest.approx(float(clipped.std()), rel=0.02)
        shot = CORRUPTIONS.load("shot-noise")(x * 0.2, 5, keys)
        assert float((shot > 0).float().mean()) == pytest.approx(1 - np.exp(-0.1 * photons), rel=0.02)
        hit = CORRUPTIONS.load("impulse-noise")(x, 5, keys)
        assert float((hit != 0.5).float().mean()) == pytest.approx(impulse, rel=0.03)
        assert float((hit == 1).float().mean()) == pytest.approx(impulse / 2, rel=0.05)


@pytest.mark.parametrize(
    ("channels", "size", "severity"), [(1, 32, 1), (1, 32, 5), (1, 70, 3), (3, 32, 1), (3, 29, 4), (3, 96, 5)]
)
def test_jpeg_agrees_with_pillow(channels, size, severity):
    """Independent reference: libjpeg through Pillow, at the same quality. Its integer arithmetic rounds a coefficient near a
    tie to the other side now and then; wrong tables or another upsampling of chroma cost the whole bound."""
    quality = ((80, 65, 58, 50, 40) if size <= 64 else (25, 18, 15, 10, 7))[severity - 1]
    levels = (smooth_images(1, channels, size)[0] * 255).round().to(torch.uint8)
    picture = Image.fromarray(levels[0].numpy() if channels == 1 else levels.permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(buffer))).float()
    expected = decoded[None] if channels == 1 else decoded.permute(2, 0, 1)
    got = CORRUPTIONS.load("jpeg")(levels[None] / 255, severity, draws(1))[0] * 255
    assert (got - expected).abs().mean() < 0.35 * (expected - levels).abs().mean()


def test_brightness_and_saturate_agree_with_colorsys():
    import colorsys

    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.0, 0.4
    bright, vivid = (CORRUPTIONS.load(name)(x, 5, draws(1))[0] for name in ("brightness", "saturate"))
    for row in range(4):
        for column in range(4):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[0, :, row, column].double().tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
            assert bright[:, row, column].tolist() == pytest.approx(expected, abs=1e-6)
            expected = colorsys.hsv_to_rgb(hue, min(saturation * 2.5 + 0.2, 1), value)
            assert vivid[:, row, column].tolist() == pytest.approx(expected, abs=1e-6)


def test_pixelate_and_contrast_by_hand():
    x = torch.rand(1, 1, 72, 72, generator=torch.Generator().manual_seed(1))
    coarse = torch.nn.functional.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(CORRUPTIONS.load("pixelate")(x, 5, draws(1)), coarse)
    torch.testing.assert_close(CORRUPTIONS.load("contrast")(x, 5, draws(1)), x.mean() + 0.05 * (x - x.mean()))


def test_blurs_keep_a_flat_image_and_glass_only_moves_pixels():
    flat = torch.full((1, 3, 16, 16), 0.3)
    for name in FAMILIES["blur"] + ("gaussian-blur",):
        torch.testing.assert_close(CORRUPTIONS.load(name)(flat, 5, draws(1)), flat, rtol=0, atol=1e-6)
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    shuffled = CORRUPTIONS.load("glass-blur")(x, 1, draws(1))  # a blur of 0.05 pixels does nothing
    torch.testing.assert_close(shuffled.flatten().sort().values, x.flatten().sort().values)
    assert not torch.equal(shuffled, x)


def test_textures():
    generator = np.random.default_rng(0)
    fractal = plasma_fractal((20, 33), 2.0, generator)
    assert fractal.shape == (20, 33)
    assert 0 <= fractal.min() < fractal.max() <= 1
    rough, fine = (np.abs(np.diff(plasma_fractal((64, 64), decay, generator))).mean() for decay in (1.2, 3.0))
    assert rough > 2 * fine
    image = generator.random((2, 9, 9))
    np.testing.assert_allclose(zoomed(image, 1.0), image)
    impulse = np.zeros((1, 1, 9))
    impulse[0, 0, 4] = 1
    streak = motion_blur_along(impulse, 2, 1.0, 0.0)[0, 0]  # to the right are the pixels that the streak averages
    weights = np.exp(-(np.arange(5) ** 2) / 2)
    np.testing.assert_allclose(streak[:5], (weights / weights.sum())[::-1])
    assert (streak[5:] == 0).all()
    np.testing.assert_allclose(motion_blur_along(impulse.swapaxes(1, 2), 2, 1.0, 90.0)[0, :, 0], streak)


@pytest.mark.parametrize("name", IMAGES)
def test_bad_images_and_severities_are_refused(name):
    x = torch.rand(2, 3, 8, 8)
    corrupt = CORRUPTIONS.load(name)
    for severity in (0, 6, 2.0, True):
        with pytest.raises(ConfigError, match="severity of 1 to 5"):
            corrupt(x, severity, draws(2))
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        corrupt(x * 255, 1, draws(2))
    with pytest.raises(DataError, match="finite"):
        corrupt(x * float("nan"), 1, draws(2))
    with pytest.raises(DataError, match=r"\[B, 1 or 3, H, W\]"):
        corrupt(x[:, :2], 1, draws(2))
    with pytest.raises(ConfigError, match="2 ids"):
        corrupt(x, 1, draws(3))


def test_saturate_refuses_grey_images():
    with pytest.raises(ConfigError, match="colour"):
        CORRUPTIONS.load("saturate")(torch.rand(1, 1, 8, 8), 1, draws(1))


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(EVENTS),
    severity=st.integers(1, 5),
    ceiling=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 5),
    full=st.booleans(),
)
def test_corrupted_events_stay_events(name, severity, ceiling, seed, full):
    x = torch.full((3, 4, 2, 3, 5), float(ceiling)) if full else frames(3, ceiling, seed)
    corrupt, maximum = CORRUPTIONS.load(name), None if ceiling == 1 else ceiling
    result = corrupt(x, severity, draws(3, seed), maximum)
    assert result.shape == x.shape
    assert torch.equal(result, result.round())
    assert result.min() >= 0
    assert result.max() <= ceiling
    parts = [corrupt(x[i : i + 1], severity, draws(3, seed).select([i]), maximum) for i in (2, 1, 0)]
    assert torch.equal(torch.cat(parts[::-1]), result)
    if name == "event-drop":
        assert (result <= x).all()
    if name in ("hot-pixels", "background-activity"):
        assert (result >= x).all()
    if name in ("event-jitter", "polarity-flip"):  # events move; where two meet under the ceiling, one is lost
        assert (result.flatten(1).sum(1) <= x.flatten(1).sum(1)).all()
        moved = 1 if name == "event-jitter" else 2
        assert ((result.sum(moved) > 0) <= (x.sum(moved) > 0)).all()


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("ceiling", [1, 4])
def test_event_severity_grows_the_number_of_changed_places(name, ceiling):
    x = frames(12, ceiling)
    changed = [(CORRUPTIONS.load(name)(x, s, draws(12), None if ceiling == 1 else ceiling) != x).sum() for s in SEVERITIES]
    assert changed[0] > 0
    assert all(b >= 0.98 * a for a, b in pairwise(changed)), changed
    assert changed[4] > 1.3 * changed[0]


def test_event_rates_are_as_stated():
    x = torch.zeros(4, 20, 2, 30, 30)
    assert float(CORRUPTIONS.load("background-activity")(x, 5, draws(4)).mean()) == pytest.approx(0.05, rel=0.05)
    hot = CORRUPTIONS.load("hot-pixels")(x, 5, draws(4))
    assert (hot.sum((1, 2, 3, 4)) == 20 * round(0.04 * 900)).all()
    assert set(hot.sum(1).unique().tolist()) == {0.0, 20.0}
    ones = torch.ones_like(x)
    assert float(CORRUPTIONS.load("event-drop")(ones, 4, draws(4)).mean()) == pytest.approx(0.5, rel=0.02)
    x[:, :, 0] = 1
    assert float(CORRUPTIONS.load("polarity-flip")(x, 3, draws(4))[:, :, 1].mean()) == pytest.approx(0.2, rel=0.03)


def test_bad_events_are_refused():
    drop = CORRUPTIONS.load("event-drop")
    with pytest.raises(DataError, match="from 0 to 1"):
        drop(frames(2, 4), 1, draws(2))
    with pytest.raises(DataError, match="whole numbers"):
        drop(frames(2, 1) * 0.5, 1, draws(2))
    with pytest.raises(DataError, match=r"\[B, T, 2, H, W\]"):
        drop(torch.zeros(2, 2, 8, 8), 1, draws(2))


def test_evaluation_has_counts_and_depends_on_neither_batch_nor_order(digits_model, digits):
    x, y = digits
    ids = [f"s{i}" for i in range(len(x))]
    names = ("gaussian-noise", "contrast", "glass-blur")
    rows = evaluate_corruptions(digits_model, x, y, ids, (1, 5), names)
    assert [(row.corruption, row.severity) for row in rows] == [(n, s) for n in names for s in (1, 5)]
    assert all(
        row.accuracy["count"] == len(x) and row.accuracy["low"] <= row.accuracy["value"] <= row.accuracy["high"] for row in rows
    )
    assert all(row.accuracy["successes"] + row.error["successes"] == len(x) for row in rows)
    accuracy = {(row.corruption, row.severity): row.accuracy["value"] for row in rows}
    assert accuracy["gaussian-noise", 1] > 0.9
    assert accuracy["glass-blur", 5] < 0.8
    back = list(range(30))[::-1]
    again = evaluate_corruptions(digits_model, x[back], y[back], [ids[i] for i in back], (1, 5), names)
    assert all((a.correct == b.correct[back]).all() for a, b in zip(again, rows, strict=True))


def test_a_stochastic_model_and_an_event_model_are_evaluated(poisson_model, digits):
    x, y = digits[0][:20], digits[1][:20]
    ids = [f"s{i}" for i in range(20)]
    first, again = (evaluate_corruptions(poisson_model, x, y, ids, (2,), ["fog"])[0].correct for _ in range(2))
    assert (first == again).all()
    model = build("mlp", input_shape=(6, 2, 7, 9), classes=3, steps=6, domain="events-binary")
    rows = evaluate_corruptions(model, frames(5, 1), torch.zeros(5, dtype=torch.long), ids[:5], (1,))
    assert [row.corruption for row in rows] == EVENTS
    with pytest.raises(ConfigError, match="not for the domain 'events-binary'"):
        evaluate_corruptions(model, frames(5, 1), torch.zeros(5, dtype=torch.long), ids[:5], (1,), ["fog"])


def test_unknown_corruptions_and_uneven_data_are_refused(digits_model, digits):
    x, y = digits[0][:4], digits[1][:4]
    with pytest.raises(ConfigError, match="Did you mean 'snow'"):
        evaluate_corruptions(digits_model, x, y, "abcd", (1,), ["snwo"])
    with pytest.raises(ConfigError, match="not for the domain 'image'"):
        evaluate_corruptions(digits_model, x, y, "abcd", (1,), ["event-drop"])
    with pytest.raises(DataError, match="as many int64 labels"):
        evaluate_corruptions(digits_model, x, y, "abc", (1,), ["snow"])


def rows_of(errors: dict[str, tuple[float, ...]], count: int = 40) -> list[CorruptionRow]:
    return [
        CorruptionRow(name, severity, np.arange(count) >= round(error * count))
        for name, each in errors.items()
        for severity, error in enumerate(each, 1)
    ]


def test_mean_corruption_error_by_hand():
    rows = rows_of({"fog": (0.1, 0.3), "snow": (0.5, 0.7)})
    plain = mean_corruption_error(rows)
    assert plain.value == pytest.approx(0.4)
    assert plain.errors == pytest.approx({"fog": 0.2, "snow": 0.6})
    assert (plain.low, plain.high) == pytest.approx(wilson(16, 40))
    relative = mean_corruption_error(rows, {"fog": 0.4, "snow": 0.5})
    assert relative.value == pytest.approx((0.2 / 0.4 + 0.6 / 0.5) / 2)
    assert relative.low < relative.value < relative.high
    assert (plain.count, plain.relative, relative.relative) == (40, False, True)
    same = mean_corruption_error(rows, plain.errors)
    assert same.value == pytest.approx(1.0)
    assert mean_corruption_error(rows_of({"fog": (1.0, 1.0), "snow": (1.0, 1.0)}), {"fog": 0.3, "snow": 0.1}).high > 6


def test_the_interval_of_the_mean_holds_the_truth():
    """Errors that are wholly shared by the corruptions, the worst case: 95 % of the intervals cover the mean of 0.2."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        shared = generator.random(60) < 0.2
        found = mean_corruption_error([CorruptionRow(name, s, ~shared) for name in ("fog", "snow") for s in (1, 2)])
        covered += found.low <= 0.2 <= found.high
    assert 0.92 <= covered / 400 <= 0.985


def test_mean_corruption_error_refuses_incomplete_rows():
    rows = rows_of({"fog": (0.1, 0.3), "snow": (0.5, 0.7)})
    with pytest.raises(ConfigError, match="same severities"):
        mean_corruption_error(rows[:3])
    with pytest.raises(ConfigError, match="same severities"):
        mean_corruption_error([])
    with pytest.raises(ConfigError, match="got several"):
        mean_corruption_error([*rows, rows[0]])
    with pytest.raises(ConfigError, match="missing or outside: snow"):
        mean_corruption_error(rows, {"fog": 0.4})
