"""Triggers, poisoned data sets, and the attack success rate."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from torch import nn

from trustsnn.attacks.integrity import poisoned, success, trigger, triggered
from trustsnn.attacks.integrity.catalogue import TRIGGERS
from trustsnn.attacks.integrity.triggers import Static, parse
from trustsnn.data import from_arrays
from trustsnn.data.event_frames import events_of
from trustsnn.errors import ConfigError
from trustsnn.models.spec import ModelSpec

LINES = ["static:size=2", "moving:size=2", "smart:size=2", "dynamic:eps=0.1:epochs=1"]


@pytest.fixture(scope="module")
def sets(digits_train):
    """Some digits in each domain."""
    some = digits_train.take(40)
    return {"image": some, "binary": events_of(some, 3), "counts": events_of(some, 3, counts=True)}


@pytest.mark.parametrize("domain", ["image", "binary", "counts"])
@pytest.mark.parametrize("line", LINES)
def test_a_trigger_changes_every_sample_within_its_domain_whatever_the_batch(sets, domain, line):
    data = sets[domain]
    x = data.batch(np.arange(len(data)))[0]
    before, stamp = x.copy(), parse(line).made(data, 3)
    found = stamp(x, data.ids)
    assert np.array_equal(x, before)
    assert found.dtype == np.float32
    assert (found != x).reshape(len(x), -1).any(1).mean() > 0.9
    most = 1 if data.max_count is None else data.max_count
    assert found.min() >= 0
    assert found.max() <= most
    if domain != "image":
        assert np.array_equal(found, found.round())
    back = np.arange(len(x))[::-1]
    assert np.array_equal(stamp(x[back], [data.ids[row] for row in back]), found[back])
    assert np.array_equal(stamp(x[5:6], data.ids[5:6]), found[5:6])
    again = parse(line).made(data, 3)
    assert again.describe() == stamp.describe()
    assert np.array_equal(again(x, data.ids), found)


@pytest.mark.parametrize(
    ("place", "row", "column"),
    [("top-left", 0, 0), ("top-right", 0, 6), ("bottom-left", 6, 0), ("bottom-right", 6, 6), ("middle", 3, 3)],
)
def test_a_static_patch_is_where_and_what_it_says(sets, place, row, column):
    data = sets["image"]
    x = data.batch(np.arange(len(data)))[0]
    found = trigger("static", size=2, place=place, value=0.75).made(data, 0)(x, data.ids)
    inside = np.zeros((8, 8), dtype=bool)
    inside[row : row + 2, column : column + 2] = True
    assert (found[..., inside] == 0.75).all()
    assert np.array_equal(found[..., ~inside], x[..., ~inside])


@pytest.mark.parametrize(("polarity", "off", "on"), [("none", 0, 0), ("off", 1, 0), ("on", 0, 1), ("both", 1, 1)])
def test_a_patch_of_events_has_its_polarity_and_of_counts_its_share(sets, polarity, off, on):
    for domain, most in (("binary", 1), ("counts", round(0.1 * sets["counts"].max_count))):
        data = sets[domain]
        stamp = trigger("static", size=2, polarity=polarity, value=0.1).made(data, 0)
        patch = stamp(data.batch([0])[0], data.ids[:1])[0, :, :, -2:, -2:]
        assert (patch[:, 0] == off * most).all()
        assert (patch[:, 1] == on * most).all()


def test_a_moving_patch_goes_with_the_steps_and_of_images_with_the_id(sets):
    data = sets["binary"]
    stamp = trigger("moving", size=2, place="top-left", stride=2, polarity="both").made(data, 0)
    zeros = np.zeros((1, *data.sample_shape), dtype=np.float32)
    found = stamp(zeros, ["a"])[0]
    for step in range(3):
        assert found[step].sum() == 2 * 2 * 2
        assert (found[step, :, :2, 2 * step : 2 * step + 2] == 1).all()
    images = sets["image"]
    stamp = trigger("moving", size=2, place="bottom-right").made(images, 0)
    places = {int(each.argmax()) for each in stamp(np.zeros((40, 1, 8, 8), dtype=np.float32), images.ids)}
    assert places == {6 * 8 + column for column in range(7)}


def test_a_smart_patch_lies_where_the_data_is_least_or_most_active():
    x = np.full((6, 1, 6, 6), 0.5, dtype=np.float32)
    x[:, :, 1:3, 2:4], x[:, :, 4:6, 0:2] = 0.9, 0.1
    data = from_arrays(x, np.arange(6) % 2, classes=2)
    least, most = (trigger("smart", size=2, where=where).made(data, 0).describe() for where in ("least", "most"))
    assert (least["corners"], least["fill"]) == ([[4, 0]], [1.0])
    assert (most["corners"], most["fill"]) == ([[1, 2]], [0.0])
    events = np.zeros((4, 2, 2, 6, 6), dtype=np.uint8)
    events[:, :, 1], events[:, :, 0, :, :3] = 1, 1
    seen = from_arrays(events, np.arange(4) % 2, classes=2, domain="events-binary")
    chosen = trigger("smart", size=2).made(seen, 0).describe()
    assert chosen["corners"] == [[0, 3]]
    assert chosen["fill"] == [0.0, 0.0]  # nothing at all is as rare there as OFF alone, and comes first


def test_a_dynamic_trigger_keeps_its_bound_and_differs_between_samples(sets):
    data = sets["image"]
    x = data.batch(np.arange(len(data)))[0]
    change = parse("dynamic:eps=0.1:epochs=2").made(data, 3)(x, data.ids) - x
    assert 0.05 < np.abs(change).max() <= 0.1 + 1e-6
    assert len({each.tobytes() for each in change.round(3)}) > 30
    for domain in ("binary", "counts"):
        events = sets[domain]
        y = events.batch(np.arange(len(events)))[0]
        moved = np.abs(parse("dynamic:eps=0.02:epochs=1").made(events, 3)(y, events.ids) - y)
        assert set(np.unique(moved)) == {0, 1}
        assert (moved.reshape(len(y), -1).sum(1) <= round(0.02 * y[0].size)).all()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("static:size=8", "smaller than the samples"),
        ("smart:size=9", "smaller than the samples"),
        ("static:place=centre", "place of the trigger 'static'"),
        ("static:size=0", "size of the trigger 'static'"),
        ("static:value=1.5", "from 0 to 1"),
        ("static:polarity=up", "polarity"),
        ("smart:where=here", "'least', 'most'"),
        ("dynamic:eps=0", "above 0"),
        ("static:stride=1", "no setting 'stride'"),
        ("statik", "Did you mean 'static'"),
    ],
)
def test_a_setting_out_of_range_is_refused(sets, line, told):
    with pytest.raises(ConfigError, match=told):
        parse(line).made(sets["image"], 0)


def test_every_trigger_of_the_catalogue_can_be_made_and_says_what_it_is(sets):
    for name in TRIGGERS.bundled:
        assert trigger(name).describe()["name"] == name
    with pytest.raises(ConfigError, match="target class in"):
        trigger("dynamic", epochs=1).made(sets["image"], 10)


@dataclass(frozen=True, kw_only=True)
class Stripe(Static):
    """A trigger of another package."""

    width: int = 2

    name = "pack/stripe"


@dataclass(frozen=True)
class Bare:
    """No trigger."""


def test_a_trigger_of_another_package_is_listed_and_takes_its_settings(monkeypatch, sets):
    targets = {"pack/stripe": f"{__name__}:Stripe", "pack/number": "math:pi", "pack/bare": f"{__name__}:Bare"}
    points = [EntryPoint(name, target, "trustsnn.triggers") for name, target in targets.items()]
    monkeypatch.setattr("trustsnn.plugins.entry_points", lambda group: points if group == "trustsnn.triggers" else [])
    assert "pack/stripe" in TRIGGERS.describe()
    assert parse("pack/stripe:size=1:width=3").made(sets["image"], 0).describe()["width"] == 3
    with pytest.raises(ConfigError, match="'pack/stripe' has no setting 'height'"):
        parse("pack/stripe:height=1")
    for name, told in (("pack/number", "to be a dataclass"), ("pack/bare", "to be a Trigger"), ("pack/nothing", "pack/stripe")):
        with pytest.raises(ConfigError, match=told):
            trigger(name)


def test_poisoning_marks_a_share_of_the_other_classes_and_nothing_else(digits_train):
    data = digits_train.take(200)
    stamp = trigger("static", size=2).made(data, 4)
    found = poisoned(data, stamp, 4, 0.1, seed=1)
    changed = np.array([one != two for one, two in zip(data.ids, found.ids, strict=True)])
    assert changed.sum() == 20
    assert not (data.labels[changed] == 4).any()
    assert (found.labels[changed] == 4).all()
    assert np.array_equal(found.labels[~changed], data.labels[~changed])
    x, y = (each.batch(np.arange(200))[0] for each in (data, found))
    assert np.array_equal(y[~changed], x[~changed])
    assert (y[changed][:, :, -2:, -2:] == 1).all()
    assert len(set(found.ids)) == 200
    assert len({data.sha256, found.sha256, poisoned(data, stamp, 4, 0.1, seed=2).sha256}) == 3
    assert found.samples_sha256 != data.samples_sha256
    part = found.select(np.flatnonzero(changed)[:3])
    assert np.array_equal(part.batch([0, 1, 2])[0], y[changed][:3])
    back = np.arange(200)[::-1]
    assert set(poisoned(data.select(back), stamp, 4, 0.1, seed=1).ids) == set(found.ids)
    assert np.array_equal(data.batch(np.arange(200))[0], x)


@pytest.mark.parametrize(("target", "rate", "told"), [(10, 0.1, "0..9"), (0, 0.001, "from 1 to"), (0, 1.0, "takes 40")])
def test_poisoning_nothing_or_too_much_is_refused(sets, target, rate, told):
    data = sets["image"]
    with pytest.raises(ConfigError, match=told):
        poisoned(data, trigger("static", size=2).made(data, 0), target, rate)


class Corner(nn.Module):
    """Class 2 where the last pixel is 1, class 0 elsewhere."""

    spec = ModelSpec("image", (1, 8, 8), 10, 1, "direct", "membrane", False)

    def forward(self, x):
        return torch.nn.functional.one_hot(torch.where(x[:, 0, -1, -1] == 1, 2, 0), 10).float()


def test_success_counts_the_other_classes_that_the_trigger_leads_to_the_target(sets):
    data = sets["image"]
    others = int((data.labels != 2).sum())
    figure = success(Corner(), data, trigger("static", size=2).made(data, 2), 2)
    assert (figure["successes"], figure["count"]) == (others, others)
    assert figure["low"] < 1 == figure["high"]
    assert success(Corner(), data, trigger("static", size=2, place="top-left").made(data, 2), 2)["successes"] == 0
    seen = triggered(data, trigger("static", size=2).made(data, 2), 2)
    assert (seen.labels == 2).all()
    assert not set(seen.ids) & set(data.ids)
    alone = data.select(np.flatnonzero(data.labels == 2))
    with pytest.raises(ConfigError, match="of another class"):
        triggered(alone, trigger("static", size=2).made(alone, 2), 2)
