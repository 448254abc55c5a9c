"""Two runs: McNemar against SciPy and a textbook figure, the interval's coverage, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, binomtest

from trustsnn.canonical import sha256_of
from trustsnn.errors import ConfigError
from trustsnn.reports.compare import compare, compare_text, paired


def one(builder, correct, *, attack=None, eps=0.1, ids=None, labels=None, **head):
    run = builder(gates=[], count=len(correct), **head)
    run.ids = ids or run.ids
    run.done(run.cell(), [1] * len(correct), labels=labels)
    run.done(run.cell(attack or "fgsm", "linf", eps), correct, labels=labels)
    return run.write()


def test_paired_figures_by_hand():
    # 2 x 2 table: both 4, only a 1, only b 5, neither 2. Exact two-sided p = 2 (C(6,0) + C(6,1)) / 2^6 = 14/64.
    a = pd.Series([1] * 4 + [1] + [0] * 5 + [0] * 2, dtype=bool)
    b = pd.Series([1] * 4 + [0] + [1] * 5 + [0] * 2, dtype=bool)
    result = paired(a, b)
    assert (result["only_a"], result["only_b"]) == (1, 5)
    assert result["p"] == pytest.approx(14 / 64, abs=1e-12)
    assert result["p"] == pytest.approx(2 * binom.cdf(1, 6, 0.5), abs=1e-12)
    assert result["difference"]["value"] == pytest.approx(4 / 12)
    # Bonett and Price by hand: p12 = 6/14, p21 = 2/14, half = 1.959964 sqrt((8/14 - (4/14)^2) / 14)
    half = 1.959963985 * ((8 / 14 - (4 / 14) ** 2) / 14) ** 0.5
    assert result["difference"]["low"] == pytest.approx(4 / 14 - half, abs=1e-9)
    assert result["difference"]["high"] == pytest.approx(4 / 14 + half, abs=1e-9)
    swapped = paired(b, a)
    assert swapped["p"] == result["p"]
    assert swapped["difference"]["low"] == pytest.approx(-result["difference"]["high"])


def test_no_differing_sample_is_no_evidence():
    a = pd.Series([True, False, True])
    assert paired(a, a)["p"] == 1.0
    assert paired(a, a)["difference"]["value"] == 0.0
    assert paired(a, a)["difference"]["low"] < 0 < paired(a, a)["difference"]["high"]


def test_the_interval_covers():
    draw, inside = np.random.default_rng(0), 0
    for cells in draw.multinomial(150, [0.5, 0.08, 0.2, 0.22], size=400):
        a = pd.Series(np.repeat([True, True, False, False], cells))
        b = pd.Series(np.repeat([True, False, True, False], cells))
        change = paired(a, b)["difference"]
        inside += change["low"] <= 0.12 <= change["high"]
    assert 0.92 <= inside / 400 <= 0.985


def test_runs_are_compared_sample_by_sample(builder):
    a = one(builder, [1, 1, 0, 0, 1, 0])
    b = one(builder, [1, 0, 1, 1, 1, 1], model={"name": "hardened", "hash": sha256_of("hardened")})
    result = compare(a, b)
    clean, attacked = result["rows"]
    assert (clean["norm"], clean["only_a"], clean["only_b"], clean["p"]) == (None, 0, 0, 1.0)
    assert (attacked["norm"], attacked["eps"], attacked["only_a"], attacked["only_b"]) == ("linf", 0.1, 1, 3)
    assert attacked["p"] == pytest.approx(binomtest(1, 4).pvalue)
    assert attacked["same_threat"]
    assert result["differences"] == ["The models differ: conv and hardened."]
    text = compare_text(a, b)
    assert "| L∞ 0.1 | 50.0 % | 83.3 % | +33.3 points |" in text
    assert "The models differ" in text


def test_a_run_equals_itself(full):
    result = compare(full, full)
    assert result["differences"] == []
    assert len(result["rows"]) == 5
    assert {row["difference"]["value"] for row in result["rows"]} == {0.0}


def test_common_samples_only_and_in_any_order(builder):
    a = one(builder, [1, 1, 0], ids=["p", "q", "r"], labels=[1, 2, 3])
    b = one(builder, [0, 1, 1], ids=["r", "x", "p"], labels=[3, 9, 1], data={"sha256": "0" * 64})
    result = compare(a, b)
    assert result["samples"] == 2
    assert (result["rows"][1]["a"]["successes"], result["rows"][1]["b"]["successes"]) == (1, 1)
    assert any("different hashes" in text for text in result["differences"])
    assert any("only the 2 common ones" in text for text in result["differences"])


def test_other_data_is_refused(builder):
    a = one(builder, [1, 1, 0])
    with pytest.raises(ConfigError, match="share none"):
        compare(a, one(builder, [1, 1, 0], ids=["x", "y", "z"], data={"sha256": "0" * 64}))
    with pytest.raises(ConfigError, match="not the same labels"):
        compare(a, one(builder, [1, 1, 0], labels=[7, 7, 7], data={"sha256": "0" * 64}))
    with pytest.raises(ConfigError, match="Expected finished evaluations"):
        compare(a, builder(gates=[]).write())


def test_other_threats_are_said(builder):
    a, b = one(builder, [1, 1, 0]), one(builder, [1, 0, 0], attack="pgd")
    result = compare(a, b)
    assert not result["rows"][1]["same_threat"]
    assert any("within L∞ 0.1" in text for text in result["differences"])
    assert "ok, other attacks" in compare_text(a, b)
    result = compare(a, one(builder, [1, 0, 0], eps=0.2))
    assert [row["norm"] for row in result["rows"]] == [None]
    assert "Only A was audited within L∞ 0.1." in result["differences"]


def test_doubt_is_carried_over(builder):
    a = one(builder, [1, 1, 0])
    run = builder(gates=[], count=3)
    run.done(run.cell(), [1, 1, 1])
    run.done(run.cell("fgsm", "linf", 0.1), [1, 1, 1], status="inconclusive")
    assert [row["status"] for row in compare(a, run.write())["rows"]] == ["ok", "inconclusive"]
