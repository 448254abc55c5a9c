"""Robust accuracy against steps and restarts: which evaluations make a curve, and what it says."""

from __future__ import annotations

import pytest

from trustsnn.reports import summarise, write
from trustsnn.reports.effort import effort

ASSG = {"name": "assg"}


@pytest.fixture
def longer(builder):
    """Six samples, the last wrong from the start; APGD with three numbers of steps, through ASSG with two, and what makes no curve."""
    run = builder(gates=[], count=6)
    run.done(run.cell(), [1, 1, 1, 1, 1, 0])
    for steps, right in ((100, [0, 1, 0, 1, 0, 1]), (10, [1, 1, 1, 1, 0, 0]), (30, [1, 0, 1, 1, 1, 0])):
        run.done(run.cell("apgd", "linf", 0.1, {"steps": steps, "step_size": 0.25 / steps, "restarts": 1}), right)
    for steps, right in ((10, [1, 1, 1, 0, 0, 0]), (20, [0] * 6)):
        run.done(run.cell("apgd", "linf", 0.1, {"steps": steps, "restarts": 1}, estimator=ASSG), right)
    run.done(run.cell("apgd", "linf", 0.1, {"steps": 10, "step_size": 0.025, "restarts": 3}), [1, 1, 1, 0, 0, 0])
    run.done(run.cell("apgd", "linf", 0.2, {"steps": 10, "restarts": 1}), [0] * 6)
    run.cell("apgd", "linf", 0.2, {"steps": 30, "restarts": 1})  # planned, and not measured
    return run


def points(curve):
    return [(each["number"], each["own"]["successes"], each["worst"]["successes"]) for each in curve["points"]]


def test_what_differs_in_the_number_alone_makes_a_curve(longer):
    own, assg, restarts = summarise(longer.write())["effort_curves"]
    assert (own["setting"], own["threat"]) == ("steps", {"attack": "apgd", "norm": "linf", "eps": 0.1, "restarts": 1})
    assert points(own) == [(10, 4, 4), (30, 4, 3), (100, 2, 1)]  # a sample that is wrong without an attack never counts
    assert own["points"][0]["worst"]["count"] == 6
    assert assg["estimator"] == ASSG
    assert points(assg) == [(10, 3, 3), (20, 0, 0)]
    assert (restarts["setting"], points(restarts)) == ("restarts", [(1, 4, 4), (3, 3, 3)])


def test_a_length_of_steps_that_was_given_is_a_difference(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    for steps, size, right in ((2, 0.02, [1, 1]), (6, 0.02, [1, 0]), (2, 0.05, [1, 0]), (6, 0.05, [0, 0])):
        run.done(run.cell("apgd", "linf", 0.1, {"steps": steps, "step_size": size, "restarts": 1}), right)
    folder = run.write()
    curves = summarise(folder)["effort_curves"]
    assert [(each["threat"]["step_size"], points(each)) for each in curves] == [
        (0.02, [(2, 2, 2), (6, 1, 1)]), (0.05, [(2, 1, 1), (6, 0, 0)])
    ]  # fmt: skip
    page = write(folder, ["html"])["html"].read_text()
    for size in (0.02, 0.05):
        assert f"surrogate triangular, width 1.0), step size {size}<" in page


def test_without_a_clean_evaluation_there_is_no_curve(longer):
    longer.lines = longer.lines[1:]
    assert summarise(longer.write())["effort_curves"] == []


def test_the_page_draws_each_curve_and_has_its_figures(longer):
    folder = longer.write()
    page = write(folder, ["html"])["html"].read_text()
    assert page.count("<h3>Steps, L∞ 0.1</h3>") == page.count("<h3>Restarts, L∞ 0.1</h3>") == 1
    assert 'id="effort-0-820-' in page
    assert "APGD through assg" in page
    assert '<td class="number">100</td><td class="number">33.3 %</td><td class="number strong">16.7 %</td>' in page
    drawn = effort(summarise(folder)["effort_curves"][:2], 5 / 6, 820, "x")
    for text in (">10<", ">20<", ">30<", ">100<", ">16.7<", ">0.0<", ">steps<"):
        assert text in drawn


def test_a_run_without_such_attacks_has_no_such_section(full):
    assert summarise(full)["effort_curves"] == []
    assert "Steps and restarts" not in write(full, ["html"])["html"].read_text()


def test_the_report_says_how_many_steps_were_not_exceeded(longer):
    page = write(longer.write(), ["html"])["html"].read_text()
    assert "Attacks of more than 100 steps through one estimator." in page
