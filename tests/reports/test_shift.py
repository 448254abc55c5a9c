"""Natural shift and out-of-distribution detection in the views: by hand, apart from robust accuracy, and honest about gaps."""

from __future__ import annotations

import pytest

from trustsnn.reports import summarise, write
from trustsnn.statistics import proportion, wilson

ODD = {"auroc": 0.75, "low": 0.5, "high": 0.9, "fpr_at_95_tpr": proportion(1, 4), "inside": 4, "outside": 4}


@pytest.fixture
def shifted(builder):
    """A run of four samples with an attack, two corruptions at two severities and one source, and its keys by name."""
    run = builder(gates=["mean_corruption_error <= 0.5"], count=4)
    keys = {"clean": run.cell(), "fgsm": run.cell("fgsm", "linf", 0.1)}
    for name in ("fog", "snow"):
        for severity in (1, 5):
            keys[f"{name}-{severity}"] = run.cell("corruption", what={"corruption": name, "severity": severity})
    keys["ood"] = run.cell("ood", what={"source": "noise", "samples_sha256": None})
    run.done(keys["clean"], [1, 1, 1, 1])
    run.done(keys["fgsm"], [1, 1, 1, 0])
    run.done(keys["fog-1"], [1, 1, 1, 0])
    run.done(keys["fog-5"], [1, 0, 0, 0])
    run.done(keys["snow-1"], [1, 1, 1, 1])
    run.done(keys["snow-5"], [0, 0, 1, 1])
    run.detected(keys["ood"], {"energy": ODD})
    return run, keys


def test_the_mean_corruption_error_by_hand(shifted):
    run, keys = shifted
    summary = summarise(run.write())
    found = summary["natural_shift"]
    low, high = wilson(1, 4)[0], wilson(2, 4)[1]  # 1.5 of 4, rounded outwards
    errors = {
        name: {"value": wrong / 4, "low": wilson(wrong, 4)[0], "high": wilson(wrong, 4)[1], "count": 4}
        for name, wrong in (("fog", 2), ("snow", 1))
    }
    mean = {"value": 0.375, "low": low, "high": high, "count": 4, "errors": errors, "status": "ok"}
    assert found["mean_corruption_error"] == mean
    assert found["corruptions"][1] == {
        "corruption": "fog", "severity": 5, **proportion(1, 4), "status": "ok", "cell": keys["fog-5"],
    }  # fmt: skip
    assert summary["ood"] == [{"source": "noise", "scores": {"energy": ODD}, "status": "ok", "cell": keys["ood"]}]
    assert summary["gates"][0]["holds"]
    assert (summary["verdict"], summary["clean_accuracy"]["successes"]) == ("pass", 4)
    assert [(f["successes"], f["cells"]) for f in summary["robust_accuracy"]] == [(3, [keys["clean"], keys["fgsm"]])]


@pytest.mark.parametrize("gap", ["missing", "error"])
def test_a_gap_is_no_mean(shifted, gap):
    run, keys = shifted
    (line,) = (line for line in run.lines if line["key"] == keys["snow-5"])
    run.lines.remove(line)
    (run.folder / "cells" / f"{keys['snow-5']}.parquet").unlink()
    if gap == "error":
        run.lines.append({**line, "status": "error", "accuracy": None})
    summary = summarise(run.write())
    mean = summary["natural_shift"]["mean_corruption_error"]
    assert (mean["value"], mean["status"]) == (None, "inconclusive")
    assert summary["natural_shift"]["corruptions"][3]["status"] == gap
    assert not summary["gates"][0]["holds"]
    assert summary["exit_code"] == 3
    assert f'<span class="state {gap}">{gap}</span>' in write(run.folder, ["html"])["html"].read_text()


@pytest.mark.parametrize("broken", [None, {}, {"energy": {**ODD, "auroc": None}}, {"energy": {**ODD, "fpr_at_95_tpr": None}}])
def test_a_detection_without_numbers_is_an_error(shifted, broken):
    run, _ = shifted
    run.lines[-1]["detection"] = broken
    summary = summarise(run.write())
    assert (summary["ood"][0]["status"], summary["ood"][0]["scores"]) == ("error", {})
    assert summary["exit_code"] == 3


def test_every_view_shows_them(shifted):
    run, _ = shifted
    paths = write(run.write())
    page, card = paths["html"].read_text(), paths["md"].read_text()
    for text in (
        "Mean corruption error",
        "37.5 %",
        "4.6–69.9",
        "0.750",
        "0.500 to 0.900",
        "2 natural corruptions, severity 1 and 5",
    ):
        assert text in page, text
    assert page.count("<table") == page.count("<caption") == 4
    assert "severity 5" not in page  # no row among the evaluations
    assert "Mean corruption error over 2 corruptions: 37.5 %" in card
    assert "| noise | energy | 0.750 | 0.500 to 0.900 | ok |" in card
    assert "Natural corruptions of the data." not in page


def test_a_run_without_them_says_so(full):
    summary = summarise(full)
    assert (summary["natural_shift"], summary["ood"]) == (None, [])
    page = write(full, ["html"])["html"].read_text()
    assert "Natural corruptions of the data." in page
    assert "Natural shift" not in page
