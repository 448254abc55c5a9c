"""Figures on hardware twins in reports."""

from __future__ import annotations

import pytest

from trustsnn.errors import RunError
from trustsnn.reports import summarise

TWIN = {"line": "pcm@1month", "maker": None, "parts": [{"name": "pcm"}], "chips": 3}


def test_the_median_the_worst_and_the_attacked_chip(builder):
    run = builder(gates=[], count=10)
    clean = run.cell()
    plain, made = run.cell(twin=TWIN), run.cell("pgd", "linf", 0.1, twin={**TWIN, "maker": "chip"})
    run.done(clean, [1] * 10)
    run.detected(plain, None, chips={"correct": [9, 2, 7], "network": 10, "count": 10})
    run.detected(made, None, chips={"correct": [0, 8, 6], "network": 5, "count": 10})
    summary = summarise(run.write())
    first, second = summary["hardware"]
    assert [first[name]["successes"] for name in ("network", "median", "worst")] == [10, 7, 2]
    assert (first["maker_accuracy"], first["over_chips"]) == (None, None)
    assert [second[name]["successes"] for name in ("network", "maker_accuracy", "median", "worst")] == [5, 0, 6, 6]
    assert (summary["robust_accuracy"], summary["clean_accuracy"]["value"], summary["verdict"]) == ([], 1.0, "pass")


def test_a_missing_or_broken_cell_on_chips_is_no_figure(builder):
    run = builder(gates=[], count=2)
    clean, broken = run.cell(), run.cell(twin=TWIN)
    run.cell("fgsm", "linf", 0.1, twin=TWIN)
    run.done(clean, [1, 1])
    run.detected(broken, None, chips={"correct": [], "network": 1, "count": 2})
    summary = summarise(run.write())
    assert [row["status"] for row in summary["hardware"]] == ["error", "missing"]
    assert all(row["median"] is None and row["network"] is None for row in summary["hardware"])
    assert summary["verdict"] == "inconclusive"


@pytest.mark.parametrize("twin", ["pcm", {"line": 3, "maker": None}, {"line": "pcm", "maker": 1}])
def test_a_twin_that_is_none_is_refused(builder, twin):
    run = builder(gates=[])
    run.cell(twin=twin)
    with pytest.raises(RunError, match="a twin"):
        summarise(run.write())
