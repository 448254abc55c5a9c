"""report.html: self-contained, escaped, equal bytes for equal runs, and honest about what it leaves open."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from trustsnn.errors import RunError
from trustsnn.reports import write

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}$x$"


def html(run):
    return write(run, ["html"])["html"].read_text(encoding="utf-8")


class Outline(HTMLParser):
    """The headings, ids, tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.levels, self.ids, self.tags, self.attributes = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))


@pytest.fixture(scope="module")
def text(tmp_path_factory, make_full):
    return html(make_full(tmp_path_factory.mktemp("html") / "run", finding=True))


def test_nothing_comes_from_outside_and_no_script_runs(text):
    page = Outline(text)
    assert not re.search(r"(?:https?:)?//[\w.]", re.sub(r"base64,[^\"]*", "", text))
    assert "@import" not in text
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/png;base64,", "#"))
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.startswith("#")
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text


def test_the_page_is_well_formed_and_accessible(text):
    page = Outline(text)
    assert 'lang="en"' in text
    assert len(page.ids) == len(set(page.ids))
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.levels, page.levels[1:], strict=False))
    assert text.count("<img") == len(re.findall(r"<img [^>]*alt=\"[^\"]+\"", text)) > 0
    assert text.count("<table") == text.count("<caption") == 2
    assert text.count("<figure") == len(re.findall(r'<figure role="img" aria-label="[^"]{20,}"', text)) == 2
    references = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", text))
    assert references <= set(page.ids)


def test_equal_runs_give_equal_bytes(tmp_path, make_full):
    first, second = (make_full(tmp_path / name, finding=True) for name in ("one", "two"))
    for name, path in write(first).items():
        assert path.read_bytes() == write(second)[name].read_bytes(), name
    before = (first / "report.html").read_bytes()
    shutil.copytree(first, tmp_path / "elsewhere")
    assert write(tmp_path / "elsewhere")["html"].read_bytes() == before


def test_hostile_names_are_escaped_everywhere(builder):
    run = builder(
        gates=[],
        count=3,
        model={"name": HOSTILE, "spec": {"encoder": HOSTILE, "classes": 3}},
        data={"name": HOSTILE, "split": HOSTILE, "classes": [HOSTILE] * 10},
        config={"command": ["trustsnn", HOSTILE], HOSTILE: HOSTILE},
    )
    run.ids = [HOSTILE + str(place) for place in range(3)]
    clean, attack = run.cell(), run.cell(HOSTILE, "linf", 0.1, estimator={"name": HOSTILE, HOSTILE: HOSTILE})
    chips = run.cell(twin={"line": HOSTILE, "maker": HOSTILE, "parts": [], "chips": 2})
    reason = {"type": HOSTILE, "message": HOSTILE, "evidence": {HOSTILE: HOSTILE}, "threshold": HOSTILE, "source": HOSTILE}
    rates = [{"layer": HOSTILE, "rate": 0.1}]
    run.done(clean, [1, 1, 1], spike_rates=rates)
    run.done(attack, [1, 0, 1], status="inconclusive", reasons=[reason], spike_rates=rates)
    run.detected(chips, None, chips={"correct": [2, 1], "network": 3, "count": 3})
    run.pictures(attack, np.zeros((3, 1, 4, 4)), np.ones((3, 1, 4, 4)), np.arange(3), np.arange(3))
    folder = run.write()
    text = html(folder)
    assert "<script" not in text
    assert "alert(1)" in text
    assert "{{7*7}}" in text
    assert "<script" not in write(folder, ["md"])["md"].read_text()


def test_honest_limits_are_said(text, full):
    assert "None. No finished evaluation gave a reason to doubt it." in html(full)
    assert "zero-gradient" in text
    assert "Athalye et al. 2018" in text
    for page in (text, html(full)):
        assert "upper bound, not a certificate" in page
        assert "What was not checked" in page


def test_what_more_steps_of_the_ensemble_still_broke_is_said(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    labels = ["APGD-CE-100 through ASSG", "APGD-CE-300 through ASSG", "APGD-CE-1000 through ASSG", "APGD-CE-100 through own"]
    settings = {"profile": "full", "members": labels, "estimators": {}}
    rows = [{"member": label, "kind": "white-box", "tried": 40, "broken": 14} for label in labels]
    run.done(run.cell("snn-autoattack", "linf", 0.1, settings), [1, 0], diagnostics={"members": rows})
    told = "Attacks of more than 1000 steps through one estimator. Spiking networks lose more to more steps"
    assert f"{told}: within L∞ 0.1 1000 steps broke 14 of 40 that 300 had left." in html(run.write())
    run.cell("snn-autoattack", "linf", 0.2, settings)
    rows[2]["broken"] = 0
    run.done(run.cell("snn-autoattack", "linf", 0.1, settings), [1, 0], diagnostics={"members": rows})
    assert f"{told}." in html(run.write())


def test_an_unfinished_run_is_shown_as_one(builder):
    run = builder(gates=["robust_accuracy[linf,0.1] >= 0.5"], count=2)
    run.cell(), run.cell("fgsm", "linf", 0.1)
    text = html(run.write())
    assert "have not finished" in text
    assert text.count('<span class="state missing">missing</span>') == 2
    assert "not measured" in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower().replace("nanum", "")


def test_a_run_without_attacks_says_so(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    text = html(run.write())
    assert "nothing is known about robustness" in text
    assert "No attack was planned." in text


def test_damaged_pictures_are_refused(builder):
    run = builder(gates=[], count=2)
    run.done(run.cell(), [1, 1])
    key = run.cell("fgsm", "linf", 0.1)
    run.done(key, [1, 1])
    folder = run.write()
    for content in (b"", b"PK\x03\x04 not a zip", b"\x80\x04\x95evil."):
        (folder / "cells" / f"{key}.npz").write_bytes(content)
        with pytest.raises(RunError, match=r"\.npz"):
            html(folder)
