"""What a run proves about each sample: the smallest perturbation that is known to break it, and curves of it."""

from __future__ import annotations

import re

import pytest

from trustsnn.reports import summarise, write
from trustsnn.reports.charts import curve
from trustsnn.reports.compare import compare
from trustsnn.reports.wording import median_text


@pytest.fixture
def searched(builder):
    """Seven samples, the last one wrong from the start: PGD at two eps, and a search up to the larger."""
    run = builder(gates=[], count=7)
    run.done(run.cell(), [1, 1, 1, 1, 1, 1, 0])
    run.done(run.cell("pgd", "linf", 0.1), [1, 1, 1, 1, 0, 1, 0])
    run.done(run.cell("pgd", "linf", 0.2), [1, 1, 0, 1, 0, 1, 0])
    search = run.cell("bisection", "linf", 0.2, {"profile": "quick", "members": ["APGD"], "estimators": {}, "rounds": 6})
    run.done(search, [1, 0, 0, 0, 0, 1, 0], sizes=[0.0, 0.15, 0.12, 0.05, 0.08, 0.0, 0.0])
    return run


def values(summary):
    return {(figure["norm"], figure["eps"]): figure["successes"] for figure in summary["robust_accuracy"]}


def test_a_small_perturbation_found_at_a_larger_eps_counts(searched):
    summary = summarise(searched.write())
    # at 0.1 PGD left five right; the search at 0.2 broke one more of them within 0.05
    assert values(summary) == {("linf", 0.1): 4, ("linf", 0.2): 2}
    (curve,) = summary["robust_curves"]
    assert (curve["norm"], curve["largest"]) == ("linf", 0.2)
    assert [(round(point["eps"], 4), point["successes"]) for point in curve["points"]] == [
        (0.0, 6), (0.05, 5), (0.08, 4), (0.12, 3), (0.15, 2), (0.2, 2),
    ]  # fmt: skip
    assert curve["points"][1]["low"] < 5 / 7 < curve["points"][1]["high"]
    assert round(curve["median"]["value"], 4) == 0.12
    assert curve["median"]["low"] == 0
    assert curve["median"]["high"] is None
    assert curve["median"]["count"] == 7


def test_sizes_that_are_not_kept_count_at_their_eps(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    run.done(run.cell("sda", "events", 10), [1, 1])
    run.done(run.cell("sda", "events", 30), [1, 0])
    summary = summarise(run.write())
    assert values(summary) == {("events", 10): 2, ("events", 30): 1}
    assert summary["robust_curves"] == []


def test_other_norms_and_larger_perturbations_prove_nothing(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    run.done(run.cell("pgd", "linf", 0.1), [1, 1])
    run.done(run.cell("pgd", "linf", 0.2), [0, 0], sizes=[0.2, 0.11])
    run.done(run.cell("pgd", "l2", 0.05), [0, 0])
    assert values(summarise(run.write())) == {("linf", 0.1): 2, ("linf", 0.2): 0, ("l2", 0.05): 0}


def test_a_search_without_a_clean_cell_has_no_curve(searched):
    searched.lines = searched.lines[1:]
    assert summarise(searched.write())["robust_curves"] == []


def test_page_and_card_show_the_search(searched):
    folder = searched.write()
    sentence = median_text(summarise(folder)["robust_curves"][0])
    assert sentence == (
        "Half of the 7 samples fall to a perturbation of L∞ 0.12 or less (95 % interval of the median: 0 to more than 0.2)."
    )
    paths = write(folder, ["html", "md"])
    assert sentence in paths["html"].read_text()
    assert "steps fall where" in paths["html"].read_text()
    assert sentence in paths["md"].read_text()


def test_the_line_of_a_search_has_steps():
    clean = {"value": 0.9, "low": 0.8, "high": 1.0, "status": "ok"}
    figure = {**clean, "norm": "linf", "eps": 0.2, "value": 0.5, "low": 0.4}
    points = [{**clean, "eps": at, "value": value} for at, value in ((0.0, 0.9), (0.1, 0.7), (0.2, 0.5))]
    straight, steps = (curve(clean, [figure], None, [], 820, each) for each in (None, {"linf": points}))
    heights = [len(set(re.findall(r"[\d.]+ ([\d.]+)", path))) for path in (_longest(straight), _longest(steps))]
    assert heights == [2, 3]
    assert _longest(steps).count("L") == 4  # two treads and two risers; a straight line has one piece
    assert _longest(straight).count("L") == 1


def _longest(svg):
    """The line through the points: the path that is drawn 2.2 thick."""
    return re.search(r'<path d="([^"]*)"[^>]*stroke-width: 2.2', svg)[1]


def test_compare_counts_the_same_proofs(searched, builder):
    other = builder(gates=[], count=7)
    other.done(other.cell(), [1] * 7)
    other.done(other.cell("pgd", "linf", 0.1), [1] * 7)
    rows = {(row["norm"], row["eps"]): row for row in compare(searched.write(), other.write())["rows"]}
    assert rows["linf", 0.1]["a"]["successes"] == 4
