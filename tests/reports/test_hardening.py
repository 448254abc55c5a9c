"""Before and after a hardening: a gain through the own surrogate alone is named as one that does not survive."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trustsnn.reports.hardening import hardening, hardening_page, hardening_text, sentences

COUNT = 200


def run(builder, through_own, ensemble, **head):
    """Of 200 samples as many stay right under PGD through the own surrogate, and of these as many under the ensemble."""
    made = builder(gates=[], count=COUNT, **head)
    made.done(made.cell(), np.ones(COUNT))
    for attack, right, estimator in (("pgd", through_own, None), ("snn-autoattack", ensemble, None)):
        made.done(made.cell(attack, "linf", 0.1, estimator=estimator), np.arange(COUNT) < right)
    return made.write()


@pytest.mark.parametrize(
    ("before", "after", "outcome", "said"),
    [
        ((60, 40), (140, 120), "survives", "the gain survives (+40.0"),
        ((60, 40), (140, 42), "vanishes", "does not survive"),
        ((60, 40), (62, 42), "none", "no gain"),
        ((60, 40), (60, 10), "worse", "lost robustness (-15.0"),
    ],
)
def test_what_is_said_of_a_gain(builder, before, after, outcome, said):
    result = hardening(run(builder, *before), run(builder, *after))
    clean, row = result["rows"]
    assert (clean["norm"], clean["own"], clean["outcome"]) == (None, None, "none")
    assert row["outcome"] == outcome
    assert said in sentences(result)[0]
    for key, pair in (("own", (before[0], after[0])), ("all", (before[1], after[1]))):
        assert (row[key]["a"]["successes"], row[key]["b"]["successes"]) == pair
    assert ("Through the own surrogate alone it would be +40.0" in sentences(result)[0]) == (after[0] == 140)


def test_an_ensemble_alone_has_no_own_figure(builder):
    folders = []
    for right in (40, 120):
        made = builder(gates=[], count=COUNT)
        made.done(made.cell(), np.ones(COUNT))
        made.done(made.cell("snn-autoattack", "linf", 0.1, estimator=None), np.arange(COUNT) < right)
        made.done(made.cell("pgd", "linf", 0.1), np.arange(COUNT) < 150)  # through another estimator
        folders.append(made.write())
    row = hardening(*folders)["rows"][1]
    assert row["own"] is None
    assert row["outcome"] == "survives"


def test_views(builder):
    result = hardening(run(builder, 60, 40), run(builder, 140, 42))
    json.dumps(result, allow_nan=False)
    text = hardening_text(result)
    assert "| L∞ 0.1 | 30.0 % | 70.0 % | +40.0 (" in text
    assert "does not survive" in text
    page = hardening_page(result, "tgo<")
    assert "tgo&lt;" in page
    assert 'href="after/report.html"' in page
    assert "does not survive" in page
    assert "<script" not in page
