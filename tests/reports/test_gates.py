"""The gates' grammar: what it reads, what it refuses, and how a bound is held."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustsnn.errors import ConfigError
from trustsnn.reports.gates import Gate, check_planned, parse

SUMMARY = {
    "clean_accuracy": {"value": 0.95, "low": 0.9, "status": "ok"},
    "robust_accuracy": [
        {"norm": "linf", "eps": 8 / 255, "value": 0.4, "low": 0.3, "status": "ok"},
        {"norm": "l2", "eps": 0.5, "value": None, "low": None, "status": "inconclusive"},
    ],
    "natural_shift": {"mean_corruption_error": {"value": 0.2, "low": 0.1, "high": 0.3, "status": "ok"}},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clean_accuracy >= 0.95", (None, None, "value", ">=", 0.95)),
        ("robust_accuracy[linf,0.1] >= 0.3", ("linf", 0.1, "value", ">=", 0.3)),
        ("lower(robust_accuracy[linf,8/255]) >= 0.3", ("linf", 8 / 255, "low", ">=", 0.3)),
        ("lower( robust_accuracy [ l2 , .5 ] )<1", ("l2", 0.5, "low", "<", 1.0)),
        ("  lower(clean_accuracy)  >  1/3 ", (None, None, "low", ">", 1 / 3)),
        ("robust_accuracy[l2,1e-1] <= 5e-1", ("l2", 0.1, "value", "<=", 0.5)),
        ("mean_corruption_error <= 0.3", (None, None, "value", "<=", 0.3)),
        ("upper(mean_corruption_error) <= 0.3", (None, None, "high", "<=", 0.3)),
    ],
)
def test_gates_that_are_read(text, expected):
    gate = parse(text)
    assert (gate.norm, gate.eps, gate.end, gate.operator, gate.bound) == expected
    assert gate.text == " ".join(text.split())
    assert parse(gate.text) == gate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "clean_accuracy",
        "clean_accuracy >= ",
        "clean_accuracy => 0.5",
        "clean_accuracy == 0.5",
        "clean_accuracy >= 0.5 and True",
        "clean_accuracy >= nan",
        "clean_accuracy >= -1",
        "clean_accuracy >= 95",
        "clean_accuracy >= 1/0",
        "clean_accuracy >= 1e999",
        "clean_accuracy >= 0.5; import os",
        "clean_accuracy[linf,0.1] >= 0.5",
        "lower(clean_accuracy >= 0.5",
        "clean_accuracy) >= 0.5",
        "upper(clean_accuracy) >= 0.5",
        "lower(mean_corruption_error) <= 0.5",
        "mean_corruption_error[fog] <= 0.5",
        "robust_accuracy >= 0.5",
        "robust_accuracy[linf] >= 0.5",
        "robust_accuracy[linf,] >= 0.5",
        "robust_accuracy[linf,1/0] >= 0.5",
        "robust_accuracy[linf,0.1,2] >= 0.5",
        "robust_accuracy[__import__,0.1)] >= 0.5",
        "clean_accuracy >= ٠.٥",
        "clean_accuracy >= 0." + "5" * 500,
        None,
    ],
)
def test_gates_that_are_refused(text):
    with pytest.raises(ConfigError, match="Expected"):
        parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_gate_or_a_config_error(text):
    with suppress(ConfigError):
        assert isinstance(parse(text), Gate)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("clean_accuracy >= 0.95", 0.95, True),
        ("clean_accuracy > 0.95", 0.95, False),
        ("clean_accuracy <= 0.95", 0.95, True),
        ("clean_accuracy < 0.95", 0.95, False),
        ("lower(clean_accuracy) >= 0.95", 0.9, False),
        ("robust_accuracy[linf,8/255] >= 0.4", 0.4, True),
        ("robust_accuracy[linf,0.0313725490] >= 0.4", 0.4, True),  # within 1e-9 of 8/255
        ("lower(robust_accuracy[linf,8/255]) >= 0.4", 0.3, False),
        ("mean_corruption_error <= 0.2", 0.2, True),
        ("upper(mean_corruption_error) < 0.3", 0.3, False),
        ("robust_accuracy[l2,0.5] <= 1", None, False),  # nothing measured never holds
    ],
)
def test_bounds(text, value, holds):
    gate = parse(text)
    expected = {"gate": gate.text, "value": value, "bound": gate.bound, "holds": holds, "decided": value is not None}
    assert gate.check(SUMMARY) == expected


@pytest.mark.parametrize(
    ("text", "holds", "decided"),
    [
        ("robust_accuracy[linf,0.1] >= 0.3", True, False),  # it can only be lower than measured
        ("robust_accuracy[linf,0.1] > 0.5", False, True),
        ("robust_accuracy[linf,0.1] <= 0.5", True, True),
        ("lower(robust_accuracy[linf,0.1]) < 0.2", False, False),
        ("mean_corruption_error <= 0.1", False, False),
        ("mean_corruption_error <= 0.3", True, False),
    ],
)
def test_what_doubt_may_turn(text, holds, decided):
    doubtful = {"value": 0.4, "low": 0.3, "status": "inconclusive"}
    summary = {
        "robust_accuracy": [{"norm": "linf", "eps": 0.1, **doubtful}],
        "natural_shift": {"mean_corruption_error": {"value": 0.2, "low": 0.1, "high": 0.3, "status": "inconclusive"}},
    }
    checked = parse(text).check(summary)
    assert (checked["holds"], checked["decided"]) == (holds, decided)


def test_a_gate_must_be_planned():
    planned = [("linf", 8 / 255), ("l2", 0.5)]
    check_planned([parse("clean_accuracy >= 0.5"), parse("robust_accuracy[linf,8/255] >= 0.5")], planned)
    for text in ("robust_accuracy[linf,0.0314] >= 0.5", "robust_accuracy[l2,8/255] >= 0.5"):
        with pytest.raises(ConfigError, match=r"\[linf,0.03137254902\], \[l2,0.5\]"):
            check_planned([parse(text)], planned)
        with pytest.raises(ConfigError, match="not audited"):
            parse(text).check(SUMMARY)
    with pytest.raises(ConfigError, match="no attack"):
        check_planned([parse("robust_accuracy[linf,0.1] >= 0.5")], [])
    with pytest.raises(ConfigError, match="--corruptions all"):
        check_planned([parse("mean_corruption_error <= 0.5")], planned)
    with pytest.raises(ConfigError, match="--corruptions all"):
        parse("mean_corruption_error <= 0.5").check({"natural_shift": None})
    check_planned([parse("mean_corruption_error <= 0.5")], planned, corruptions=True)
