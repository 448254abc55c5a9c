"""Figures, statuses, verdicts: against hand-computed worst cases and the contract's table."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustsnn.errors import ConfigError
from trustsnn.reports import summarise, write
from trustsnn.statistics import proportion


def robust(summary):
    return {(figure["norm"], figure["eps"]): figure["successes"] for figure in summary["robust_accuracy"]}


def test_the_worst_case_is_per_sample_and_nested(builder):
    run = builder(gates=[], count=6)
    clean, small, small_pgd = run.cell(), run.cell("fgsm", "linf", 0.1), run.cell("pgd", "linf", 0.1)
    large, other = run.cell("fgsm", "linf", 0.2), run.cell("pgd", "l2", 0.2)
    run.done(clean, [1, 1, 1, 1, 1, 0])
    run.done(small, [1, 1, 1, 1, 0, 1])  # the last is wrong without an attack: never robust
    run.done(small_pgd, [1, 1, 1, 0, 1, 0])
    run.done(large, [1, 1, 0, 1, 1, 0])  # right again at 0.2 for two samples that fell at 0.1: they stay fallen
    run.done(other, [0, 1, 1, 1, 1, 1])
    summary = summarise(run.write())
    assert robust(summary) == {("linf", 0.1): 3, ("linf", 0.2): 2, ("l2", 0.2): 4}
    figure = summary["robust_accuracy"][1]
    assert figure == {"norm": "linf", "eps": 0.2, **proportion(2, 6), "status": "ok", "cells": [clean, small, small_pgd, large]}
    assert summary["clean_accuracy"] == {**proportion(5, 6), "status": "ok"}


def test_rows_in_another_order_are_the_same_samples(builder):
    run = builder(gates=[], count=4)
    clean, attack = run.cell(), run.cell("fgsm", "linf", 0.1)
    run.done(clean, [1, 1, 0, 0])
    run.ids = run.ids[::-1]
    run.done(attack, [1, 1, 0, 0])  # robust are the last two samples, wrong without an attack
    assert robust(summarise(run.write())) == {("linf", 0.1): 0}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["linf", "l2"]),
            st.sampled_from([0.1, 0.2, 0.3, 8 / 255]),
            st.lists(st.booleans(), min_size=5, max_size=5),
        ),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_the_worst_case_never_rises_with_eps(make_builder, cells, clean):
    with tempfile.TemporaryDirectory() as folder:
        run = make_builder(Path(folder), count=5, gates=[])
        run.done(run.cell(), clean)
        for place, (norm, eps, correct) in enumerate(cells):
            run.done(run.cell("fgsm", norm, eps, seed=place), correct)
        summary = summarise(run.write())
    for norm in ("linf", "l2"):
        values = [summary["clean_accuracy"]["value"], *(f["value"] for f in summary["robust_accuracy"] if f["norm"] == norm)]
        assert values == sorted(values, reverse=True)
    assert [f["eps"] for f in summary["robust_accuracy"] if f["norm"] == "l2"] == sorted(
        {eps for norm, eps, _ in cells if norm == "l2"}
    )


HOLDS, BROKEN = ["clean_accuracy >= 0.5"], ["clean_accuracy >= 0.9"]


@pytest.mark.parametrize(
    ("clean", "attack", "gates", "verdict", "code"),
    [
        ("ok", "ok", HOLDS, "pass", 0),
        ("ok", "ok", [], "pass", 0),
        ("ok", "ok", BROKEN, "fail", 1),
        ("ok", "ok", HOLDS + BROKEN, "fail", 1),
        ("ok", "inconclusive", HOLDS, "inconclusive", 3),
        ("ok", "inconclusive", [], "inconclusive", 3),
        ("ok", "inconclusive", BROKEN, "fail", 1),
        ("ok", "ok", ["robust_accuracy[linf,0.1] <= 0.5"], "fail", 1),
        ("ok", "inconclusive", ["robust_accuracy[linf,0.1] <= 0.5"], "inconclusive", 3),  # the true one may be as low as that
        ("ok", "inconclusive", ["robust_accuracy[linf,0.1] >= 0.9"], "fail", 1),
        ("ok", "error", HOLDS, "inconclusive", 3),
        ("ok", "error", BROKEN, "inconclusive", 3),
        ("ok", None, HOLDS, "inconclusive", 3),
        ("ok", None, BROKEN, "inconclusive", 3),
        ("inconclusive", "ok", HOLDS, "inconclusive", 3),
        ("inconclusive", "ok", BROKEN, "inconclusive", 3),
        ("error", "ok", HOLDS, "inconclusive", 3),
        (None, "ok", BROKEN, "inconclusive", 3),
        (None, None, [], "inconclusive", 3),
    ],
)
def test_verdict_and_exit_code(builder, clean, attack, gates, verdict, code):
    run = builder(gates=gates, count=4)
    keys = run.cell(), run.cell("fgsm", "linf", 0.1)
    for key, status in zip(keys, (clean, attack), strict=True):
        if status:
            run.done(key, [1, 1, 1, 0], status=status)
    summary = summarise(run.write())
    assert (summary["verdict"], summary["exit_code"]) == (verdict, code)
    assert summary["sentence"].endswith(".")
    assert summary["robust_accuracy"][0]["status"] == ("ok" if clean == attack == "ok" else "inconclusive")
    if clean is None or attack in (None, "error"):
        assert summary["robust_accuracy"][0]["value"] is None


def test_what_doubt_leaves_open_is_said(builder):
    run = builder(gates=["robust_accuracy[linf,0.1] <= 0.5"], count=4)
    run.done(run.cell(), [1, 1, 1, 0])
    run.done(run.cell("fgsm", "linf", 0.1), [1, 1, 1, 0], status="inconclusive")
    folder = run.write()
    assert summarise(folder)["sentence"].endswith("Whether robust_accuracy[linf,0.1] <= 0.5 holds cannot be decided.")
    pages = write(folder, ["html", "md", "junit"])
    assert '<span class="state">cannot be decided</span>' in pages["html"].read_text()
    assert "| cannot be decided |" in pages["md"].read_text()
    assert "<error" in pages["junit"].read_text()
    assert "<failure" not in pages["junit"].read_text()


def test_a_smaller_ball_does_not_stand_in_for_a_missing_one(builder):
    run = builder(gates=["robust_accuracy[linf,0.2] >= 0"], count=2)
    run.done(run.cell(), [1, 1])
    run.done(run.cell("fgsm", "linf", 0.1), [1, 1])
    run.cell("fgsm", "linf", 0.2)
    summary = summarise(run.write())
    assert [figure["value"] for figure in summary["robust_accuracy"]] == [1.0, None]
    assert summary["gates"] == [
        {"gate": "robust_accuracy[linf,0.2] >= 0", "value": None, "bound": 0.0, "holds": False, "decided": False}
    ]


def test_no_clean_cell_is_no_verdict(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell("fgsm", "linf", 0.1), [1, 1])
    assert summarise(run.write())["exit_code"] == 3


def test_nothing_planned_is_no_verdict(builder):
    assert summarise(builder(gates=[]).write())["exit_code"] == 3


def test_doubt_spreads_to_every_larger_ball(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    for eps, status in ((0.1, "ok"), (0.2, "inconclusive"), (0.3, "ok")):
        run.done(run.cell("fgsm", "linf", eps), [1, 1], status=status)
    assert [figure["status"] for figure in summarise(run.write())["robust_accuracy"]] == ["ok", "inconclusive", "inconclusive"]


def test_a_gate_on_what_was_not_planned_is_an_error(builder):
    run = builder(gates=["robust_accuracy[linf,0.5] >= 0.1"], count=2)
    run.done(run.cell(), [1, 1])
    run.done(run.cell("fgsm", "linf", 0.1), [1, 1])
    with pytest.raises(ConfigError, match=r"not audited.*\[linf,0.1\]"):
        summarise(run.write())


def test_findings_carry_their_cell_and_evidence(tmp_path, make_full):
    summary = summarise(make_full(tmp_path / "run", finding=True))
    (finding,) = summary["findings"]
    assert finding["type"] == "zero-gradient"
    assert set(finding) == {"cell", "type", "message", "evidence", "threshold", "source"}
    assert summary["cells"][6]["key"] == finding["cell"]


def test_the_keys_are_those_of_the_contract(full):
    expected = {"format", "verdict", "exit_code", "sentence", "clean_accuracy", "robust_accuracy", "gates", "findings", "cells"}
    expected |= {"natural_shift", "ood", "robust_curves", "effort_curves", "hardware"}
    assert set(summarise(full)) == expected | {"model", "data", "environment", "config"}
