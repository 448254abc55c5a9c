"""report.json, samples.csv, junit.xml, card.md: parsed back by independent readers."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pandas as pd
import pytest
from junitparser import JUnitXml

from trustsnn.errors import ConfigError, RunError
from trustsnn.reports import FORMATS, load_samples, summarise, write
from trustsnn.reports.wording import ball_text, eps_text, measured, percent, threat_text


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_full):
    folder = make_full(tmp_path_factory.mktemp("views") / "run", finding=True)
    assert write(folder) == {name: folder / file for name, file in FORMATS.items()}
    return folder


def test_json_is_the_summary(run):
    text = (run / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == summarise(run)
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def test_csv_is_the_samples(run):
    table = pd.read_csv(run / "samples.csv", dtype={"margin": "float32", "linf": "float32", "l2": "float32"})
    table = table.astype({"changes": "Int64", "broken_by": object})
    pd.testing.assert_frame_equal(table, load_samples(run), check_dtype=False)
    assert len(table) == 8 * 200


def test_junit_parses_and_counts(run):
    xml = JUnitXml.fromfile(str(run / "junit.xml"))
    assert (xml.tests, xml.failures, xml.errors) == (5, 2, 1)
    (suite,) = list(xml)
    assert [case.classname for case in suite] == ["trustsnn.verdict", *["trustsnn.gate"] * 3, "trustsnn.finding"]
    text = (run / "junit.xml").read_text(encoding="utf-8")
    assert "timestamp" not in text
    assert ET.fromstring(text).tag == "testsuites"


def test_junit_of_a_missing_evaluation_is_an_error(builder):
    run = builder(gates=[], count=2, model={"name": "bell\x07"})
    run.done(run.cell(), [1, 1], reasons=[{"type": "note\x00", "message": "LONE"}])
    run.cell("fgsm", "linf", 0.1)
    folder = run.write()
    text = (folder / "cells.jsonl").read_text()
    (folder / "cells.jsonl").write_text(text.replace("LONE", "\\ud800"))
    xml = JUnitXml.fromfile(str(write(folder)["junit"]))
    assert (xml.tests, xml.failures, xml.errors) == (3, 0, 2)  # the verdict, a finding on a sound cell, the missing one


def test_card_has_every_figure_and_limit(run):
    text = (run / "card.md").read_text(encoding="utf-8")
    for figure in summarise(run)["robust_accuracy"]:
        assert f"| {figure['successes']} / {figure['count']} |" in text
    for part in ("**Verdict: fail.**", "### Findings", "zero-gradient", "What was not checked", "upper bound"):
        assert part in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" |") for line in rows[:7]} == {5}


def test_only_known_formats(full):
    with pytest.raises(ConfigError, match="'pdf'"):
        write(full, ["pdf"])


def test_an_unwritable_folder_is_one_clear_error(builder, monkeypatch):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    folder = run.write()
    monkeypatch.setattr("os.open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunError, match="No space left"):
        write(folder, ["json"])


@pytest.mark.parametrize(
    ("value", "count", "text"),
    [
        (0.975, 200, "97.5 %"),
        (1.0, 200, "100.0 %"),
        (0.9999, 200, "> 99.9 %"),
        (0.0001, 200, "< 0.1 %"),
        (0.0, 200, "0.0 %"),
        (0.98765, 10000, "98.77 %"),
        (None, 0, "not measured"),
        (float("nan"), 5, "not measured"),
    ],
)
def test_percent(value, count, text):
    assert percent(value, count) == text


def test_a_measured_figure_never_reads_as_its_bound():
    assert measured(0.9496, 0.95) == "95.0 %" or measured(0.9496, 0.95) == "94.96 %"
    assert measured(0.94999, 0.95) == "94.999 %"
    assert measured(0.95, 0.95) == "95.0 %"


def test_eps_reads_as_people_write_it():
    assert [eps_text(eps) for eps in (0.1, 0.2, 8 / 255, 2 / 255, 1.0, 1 / 3, 0.0)] == [
        "0.1",
        "0.2",
        "8/255",
        "2/255",
        "1",
        "85/255",
        "0",
    ]


def test_balls_read_as_people_say_them():
    assert ball_text("linf", 8 / 255) == "L∞ 8/255"
    assert ball_text("l2", 0.5, 1.0) == "L2 0.5 and 1"
    assert ball_text("events", 10.0, 30.0, 100.0) == "10, 30 and 100 changed events"
    assert ball_text("moves", 1.0) == "1 moved event"
    assert threat_text({"attack": "sda", "norm": "events", "eps": 30.0}) == "SDA, 30 changed events"
    assert (
        threat_text({"attack": "corruption", "corruption": "fog", "severity": 2, "norm": None, "eps": 0.0}) == "fog, severity 2"
    )


def test_the_import_is_light():
    heavy = ["torch", "pandas", "numpy", "matplotlib", "jinja2", "scipy"]
    code = f"import sys, trustsnn.reports; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
