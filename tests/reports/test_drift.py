"""The accuracy of chips against the time since programming: one chart for each kind that was tried at several times."""

from __future__ import annotations

import re

import pytest

from trustsnn.reports import summarise, write
from trustsnn.reports.drift import by_time, drift, duration, labelled

TIMES = {"pcm@1year:compensate=false": 31_536_000.0, "pcm@25s:compensate=false": 25.0, "pcm:time=3600:compensate=false": 3600.0}


@pytest.fixture
def aged(builder):
    """A run with chips of one kind at three times, of another at one, and of one without a time."""
    run = builder(gates=[], count=20)
    run.done(run.cell(), [1] * 20)
    right = iter([[4, 5, 2, 3, 6, 7], [20, 19, 18, 17, 16, 15], [10, 11, 12, 9, 8, 7], [20] * 6, [19] * 6])
    for line, time in [*TIMES.items(), ("pcm@1h", 3600.0), ("sram", None)]:
        twin = {"line": line, "maker": None, "parts": [{"name": "x", **({} if time is None else {"time": time})}], "chips": 6}
        run.detected(run.cell(twin=twin), None, chips={"correct": next(right), "network": 20, "count": 20})
    attacked = {"line": "pcm@1day:compensate=false", "maker": "network", "parts": [{"name": "x", "time": 86_400.0}], "chips": 6}
    run.detected(run.cell("pgd", "linf", 0.1, twin=attacked), None, chips={"correct": [1] * 6, "network": 1, "count": 20})
    return run.write()


def test_kinds_are_told_apart_and_times_put_in_order(aged):
    rows = summarise(aged)["hardware"]
    assert [row["time"] for row in rows] == [*TIMES.values(), 3600.0, None, 86_400.0]
    (kind, found), *others = by_time(rows).items()
    assert (kind, others) == ("pcm:compensate=false", [])
    assert [(row["time"], row["median"]["successes"], row["worst"]["successes"]) for row in found] == [
        (25.0, 17, 15), (3600.0, 9, 7), (31_536_000.0, 4, 2)
    ]  # fmt: skip


def test_the_chart_has_the_figures_of_the_table(aged):
    rows = by_time(summarise(aged)["hardware"])["pcm:compensate=false"]
    svg = drift(rows, 820, "drift-0")
    for text in (">85.0<", ">45.0<", ">20.0<", ">25 s<", ">1 h<", ">1 year<", ">median chip<", ">worst chip<", ">network<"):
        assert text in svg
    height = dict(_points(svg))
    assert height[85] < height[45] < height[20]
    assert (height[45] - height[85]) / (height[20] - height[45]) == pytest.approx(40 / 25, rel=0.01)
    write(aged)
    page = (aged / "report.html").read_text()
    assert page.count("pcm:compensate=false over time") == 1
    assert 'id="drift-0-820-' in page
    assert 'id="drift-0-340-' in page


def _points(svg):
    """The heights at which the labels of the median chip stand, by their value."""
    found = re.findall(r"translate\([\d.]+ ([\d.]+)\)[^>]*>(\d\d\.0)<|x=\"[\d.]+\" y=\"([\d.]+)\"[^>]*>(\d\d\.0)<", svg)
    return [(float(a or b), float(p or q)) for p, a, q, b in found]


def test_a_run_without_times_has_no_chart(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    for line, time in (("pcm@1h", "soon"), ("pcm@2h", -1.0), ("pcm@3h", True), ("pcm@4h", 14_400.0)):
        twin = {"line": line, "maker": None, "parts": [{"name": "pcm", "time": time}]}
        run.detected(run.cell(twin=twin), None, chips={"correct": [1, 2], "network": 2, "count": 2})
    folder = run.write()
    assert [row["time"] for row in summarise(folder)["hardware"]] == [None, None, None, 14_400.0]
    write(folder)
    assert "over time" not in (folder / "report.html").read_text()


def test_times_in_words_and_labels_that_stand_apart():
    words = [duration(each) for each in (0, 0.5, 25, 90, 3600, 86_400, 172_800, 2_592_000, 31_536_000)]
    assert words == ["0 s", "0.5 s", "25 s", "1.5 min", "1 h", "1 day", "2 days", "1 month", "1 year"]
    assert labelled([0.3, 3.5, 3.6, 7.5], 820) == [0.3, 3.6, 7.5]
    assert labelled([0.3, 3.5, 6.4, 7.5], 340) == [0.3, 3.5, 7.5]
