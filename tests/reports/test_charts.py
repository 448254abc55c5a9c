"""Charts: labels that never collide, hostile text, and a matplotlibrc that does not matter."""

from __future__ import annotations

from itertools import pairwise

import matplotlib
from hypothesis import given
from hypothesis import strategies as st

from trustsnn.reports.charts import apart, bars, curve
from trustsnn.statistics import proportion

CLEAN = {**proportion(99, 100), "status": "ok"}


def figures(*sizes, norm="linf"):
    return [{"norm": norm, "eps": eps, **proportion(60 - place, 100), "status": "ok"} for place, eps in enumerate(sizes)]


@given(st.lists(st.floats(0, 1), unique=True, max_size=12).map(sorted), st.floats(0, 1))
def test_labels_stand_apart(places, least):
    kept = apart(places, least)
    assert kept[:1] == places[:1]
    assert kept[-1:] == places[-1:]
    assert kept == sorted(set(kept) & set(places))
    assert len(kept) <= 2 or all(after - before >= least for before, after in pairwise(kept))


def test_one_panel_a_norm_in_the_colours_of_the_page():
    svg = curve(CLEAN, [*figures(0.1, 8 / 255), *figures(0.5, norm="l2")], 0.1, [("linf", 0.1, 0.3)], 820)
    assert svg.startswith('<svg viewBox="0 0 820 330"')
    assert ">L∞ size of the perturbation (eps)</text>" in svg
    assert ">L2 size of the perturbation (eps)</text>" in svg
    assert "var(--series-1)" in svg
    assert "var(--series-2)" in svg
    assert "http" not in svg
    assert "<metadata" not in svg
    assert "#0" not in svg.replace("#curve", "")


def test_a_matplotlibrc_does_not_matter():
    before = curve(CLEAN, figures(0.1), None, [], 340)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "axes.labelpad": 40}):
        assert curve(CLEAN, figures(0.1), None, [], 340) == before


def test_names_of_layers_are_text_and_not_mathematics():
    svg = bars(["a$\\frac{$", "<b>&", "層", "x" * 60], [("No attack", [0.1, None, 0.0, 0.2])], 340)
    assert "&lt;b&gt;&amp;" in svg
    assert "層" in svg
    assert "a$\\frac{$" in svg
    assert "x" * 60 not in svg
