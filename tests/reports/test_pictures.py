"""Pixels of known colours, and the amplified difference."""

from __future__ import annotations

import numpy as np
import pytest

from trustsnn.reports.pictures import ADDED, NEUTRAL, OFF, ON, REMOVED, change, gallery, pixels


def image(*channels):
    return np.array(channels, dtype=np.float32)[:, None, :]  # [C, 1, W]


def test_channels_are_drawn_by_their_kind():
    assert pixels(image([0.0, 0.5, 1.0])).tolist() == [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    assert pixels(image([1.0], [0.0], [0.2])).tolist() == [[[255, 0, 51]]]
    assert pixels(image([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])).tolist() == [[list(OFF), list(ON), list(NEUTRAL)]]
    assert pixels(image([-1.0, 2.0])).tolist() == [[[0] * 3, [255] * 3]]


def test_the_difference_is_amplified_and_signed():
    assert change(image([0.1, -0.1, 0.0, 0.5]), 0.1).tolist() == [[list(ADDED), list(REMOVED), list(NEUTRAL), list(ADDED)]]
    assert change(image([0.05, 0.0], [-0.1, 0.0]), 0.1).tolist() == [[list(REMOVED), list(NEUTRAL)]]


def test_no_change_is_neutral_and_no_division_by_zero(builder):
    run = builder(count=1)
    key = run.cell("fgsm", "l2", 0.5)
    run.done(key, [1])
    run.pictures(key, np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)), np.array([3]), np.array([3]))
    drawn = gallery(run.folder / "cells" / f"{key}.npz", None)
    assert drawn is not None
    assert drawn.scale == 1.0


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_channel_count_is_drawn(builder, channels):
    run = builder(count=10)
    key = run.cell("fgsm", "linf", 0.5)
    run.done(key, [1] * 10)
    arrays = np.random.default_rng(0).random((2, 10, channels, 5, 4)).astype(np.float32)
    run.pictures(key, *arrays, np.arange(10), np.arange(10))
    drawn = gallery(run.folder / "cells" / f"{key}.npz", 0.5)
    assert drawn is not None
    assert (len(drawn.pictures), drawn.channels, drawn.scale) == (8, channels, 0.5)
    assert len({picture.clean for picture in drawn.pictures}) == 8


def test_no_file_is_no_gallery(tmp_path):
    assert gallery(tmp_path / "none.npz", 0.1) is None
