"""The findings of the verdict, each on outcomes that call for it and on outcomes that do not."""

from __future__ import annotations

import numpy as np
import pytest

from trustsnn.attacks import verdict


def outcomes(correct: int, count: int = 200, shift: int = 0) -> np.ndarray:
    """`correct` samples of `count` stay correct, from place `shift` on."""
    return np.roll(np.arange(count) < correct, shift)


def types(found: list[dict]) -> list[str]:
    for finding in found:
        assert set(finding) == {"type", "message", "evidence", "threshold", "source"}
        assert finding["message"].endswith(".")
        assert finding["source"]
    return [finding["type"] for finding in found]


@pytest.mark.parametrize(
    ("one_step", "iterative", "named"),
    [
        (outcomes(80), outcomes(100), True),  # one step broke 20 more, and nothing the other way round
        (outcomes(100), outcomes(80), False),
        (outcomes(98), outcomes(100), False),  # two samples are chance
        (outcomes(100, shift=60), outcomes(105), False),  # many each way
    ],
)
def test_what_should_be_weaker_and_is_not(one_step, iterative, named):
    assert types(verdict.one_step_beats_iterative(one_step, iterative)) == (["one-step-beats-iterative"] if named else [])
    assert types(verdict.network_beats_chip(one_step, iterative)) == (["network-beats-chip"] if named else [])


@pytest.mark.parametrize(
    ("fewer", "more", "named"),
    [
        (outcomes(100), outcomes(80), True),
        (outcomes(100), outcomes(100), False),
        (outcomes(100), outcomes(97), False),  # 1.5 points, but three samples are chance
        (outcomes(80), outcomes(100), False),
        (outcomes(5000, 10_000), outcomes(4960, 10_000), False),  # sure, but less than half a point
    ],
)
def test_steps_against_twice_the_steps(fewer, more, named):
    found = verdict.more_steps_still_gain(fewer, more, (20, 40))
    assert types(found) == (["more-steps-still-gain"] if named else [])
    if named:
        assert found[0]["evidence"]["gain"] == pytest.approx(0.1)


def test_masking_is_what_twice_the_budget_leaves():
    assert types(verdict.masked(outcomes(64, 64))) == ["gradient-masking"]
    assert types(verdict.masked(outcomes(26, 64))) == ["gradient-masking"]
    assert not verdict.masked(outcomes(24, 64))  # 37.5 %, but of few samples
    assert types(verdict.masked(outcomes(4, 4))) == ["gradient-masking"]
    assert not verdict.masked(outcomes(3, 3))
    assert not verdict.masked(np.zeros(0, dtype=bool))


@pytest.mark.parametrize("kind", ["black-box", "transfer"])
def test_attacks_without_gradients_may_break_one_point(kind):
    assert types(verdict.beats_white_box(kind, 50, 7, 200)) == [f"{kind}-beats-white-box"]
    assert not verdict.beats_white_box(kind, 50, 6, 200)  # 3 %, but of few samples
    assert not verdict.beats_white_box(kind, 74, 1, 80)
    assert types(verdict.beats_white_box(kind, 500, 25, 1000)) == [f"{kind}-beats-white-box"]
    assert not verdict.beats_white_box(kind, 500, 10, 1000)
    assert not verdict.beats_white_box(kind, 0, 0, 0)


def test_gradients_break_what_a_search_breaks():
    assert types(verdict.search_beats_white_box(9, 16, 100, 0.1)) == ["black-box-beats-white-box"]
    assert not verdict.search_beats_white_box(8, 16, 100, 0.1)
    assert not verdict.search_beats_white_box(7, 7, 100, 0.1)
    assert not verdict.search_beats_white_box(0, 0, 100, 0.1)


def test_an_unbounded_attack_leaves_nothing():
    assert types(verdict.unbounded_attack_fails(outcomes(3, 32))) == ["unbounded-attack-fails"]
    assert not verdict.unbounded_attack_fails(outcomes(0, 32))


def test_ties_and_rounding():
    assert types(verdict.tied(outcomes(3))) == ["tied-logits"]
    assert not verdict.tied(outcomes(2))
    assert types(verdict.input_rounded(outcomes(14, 32), 16, 100)) == ["input-rounded"]  # 100 * 0.5 ** 14 is below 0.01
    assert not verdict.input_rounded(outcomes(13, 32), 16, 100)
    assert not verdict.input_rounded(outcomes(0, 32)[:0], 16, 1)
