"""The joined leakage report: findings of each kind, gates, verdicts, the page, and records that are not what they should be."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustsnn.errors import ConfigError, RunError
from trustsnn.reports.leakage_kinds import FOUND, KINDS, NOTHING, UNCLEAR, Finding, shown
from trustsnn.reports.leakage_report import Gate, Run, page, parse, read, report

DATA = {"name": "digits", "split": "test", "count": 200, "classes": ["zero", "one<b>"]}
MODEL = {"name": "net<i>", "hash": "a" * 64, "spec": {"max_count": None}}


def share(value, low, high, count=100):
    return {"value": value, "low": low, "high": high, "successes": round(value * count), "count": count}


def attack(name, auc, tpr, status="ok"):
    rates = [{"fpr": fpr, **share(tpr, tpr / 2, tpr * 1.5), "others": 200, "status": status} for fpr in (0.001, 0.01)]
    roc = [{"fpr": fpr, "value": tpr, "low": tpr / 2, "high": tpr} for fpr in (0.01, 0.1, 1.0)]
    classes = [{"class": "zero", "count": 50, "auc": None}]
    return {
        "name": name,
        "auc": {"value": auc, "low": auc - 0.05, "high": auc + 0.05},
        "tpr": rates,
        "roc": roc,
        "classes": classes,
    }


def membership(auc=0.8, tpr=0.3, status="ok", gate=None):
    return {
        "format": KINDS["membership"].format, "model": MODEL, "data": DATA, "members": 100, "eps": None, "chips": None, "gate": gate,
        "attacks": [attack("lira", auc, tpr, status), attack("label-only", 0.5, 0.01, status)],
        "gap": {"train": share(1.0, 0.9, 1.0), "test": share(0.9, 0.8, 0.95)},
        "exposed": {"attack": "lira", "samples": [{"id": "x", "row": 0, "label": 1, "others_above": 0.0}]},
    }  # fmt: skip


def gate(bound):
    return {"bound": bound, "attack": "lira", "value": 0.3, "exit_code": int(bound < 0.3)}


def classes(p=0.001, any_zero=False, top1=0.9):
    found = {
        "settings": {"through": "snn"}, "classes": [0, 1], "top1": share(top1, top1 - 0.1, top1 + 0.05), "top3": share(1.0, 0.9, 1.0),
        "distance": {"value": 0.2, "low": 0.1, "high": 0.3}, "above_chance": p, "predictions": [0, 1], "confidences": [0.5, 0.6],
    }  # fmt: skip
    models = [
        {
            "name": "models/net",
            "hash": "a" * 64,
            "attacks": [{**found, "settings": {"through": "ann"}, "top1": share(0.1, 0.0, 0.2)}, found],
        }
    ]
    return {"format": KINDS["class"].format, "data": DATA, "models": models, "chance": [0.5, 1.0], "any_zero": any_zero}


def gradients(outcome="recovers", known=True):
    cells = [
        {
            "attack": "analytic", "defence": defence, "outcome": told, "psnr": {**share(psnr, psnr - 2, psnr + 2), "value": psnr},
            "ssim": share(0.9, 0.8, 1.0), "labels": share(1.0, 0.6, 1.0) if known else [3],
        }
        for defence, told, psnr in (("none", outcome, 60.0), ("clip=1", "stopped", 5.0))
    ]  # fmt: skip
    return {
        "format": KINDS["gradients"].format, "model": MODEL, "data": DATA if known else None, "threshold": 20.0,
        "cells": cells if known else [{"attack": "analytic", "defence": None, "labels": [3]}],
    }  # fmt: skip


def extract(low=0.8):
    copies = [
        {"queries": n, "agreement": share(0.9, low, 0.95), "accuracy": share(0.8, 0.7, 0.9), "transfer": None} for n in (10, 100)
    ]
    return {
        "format": KINDS["extract"].format, "model": MODEL, "data": DATA, "queries": DATA, "attack": {"answers": "soft"}, "copies": copies,
        "accuracy": share(0.9, 0.8, 0.95), "white_box": None, "random_signs": None, "eps": None,
    }  # fmt: skip


def attribute(p=1e-6):
    sides = {
        name: {each: share(0.6, 0.5, 0.7) for each in ("prior", "imputation", "both", "confidence")}
        for name in ("members", "others")
    }
    rows = [
        {"feature": place, **{name: {**side, "gain": {"gained": 30, "lost": 1, "p": p}} for name, side in sides.items()}}
        for place in (0, 1)
    ]
    return {
        "format": KINDS["attribute"].format,
        "model": MODEL,
        "attacks": ["prior", "imputation", "both", "confidence"],
        "features": rows,
    }


def property_(low=0.7):
    return {
        "format": KINDS["property"].format, "data": DATA, "right": share(0.8, low, 0.9, 20), "known": 40, "auc": share(0.9, 0.8, 1.0),
        "property": {"class": "zero", "shares": [0.3, 0.5]}, "recipe": {},
    }  # fmt: skip


def scan(outcome="backdoored", gate=False):
    evidence = [{"detector": "inversion", "reached": [True, True], "values": [3.0, 9.0], "hits": [0]}]
    verdict = {"outcome": outcome, "classes": [0] if outcome == "backdoored" else [], "reasons": []}
    return {
        "format": KINDS["backdoor"].format, "model": MODEL, "data": DATA, "verdict": verdict, "clean": share(0.9, 0.8, 1.0), "left_out": {},
        "gate": gate, "evidence": evidence,
    }  # fmt: skip


MAKE = {
    "membership": membership, "class": classes, "gradients": gradients, "extract": extract, "attribute": attribute, "property": property_,
    "backdoor": scan,
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """A function that writes a record as the run NAME and returns its folder."""

    def run(kind, record, name=None):
        folder = tmp_path / (name or kind)
        folder.mkdir()
        (folder / f"{KINDS[kind].stem}.json").write_text(json.dumps(record))
        (folder / f"{KINDS[kind].stem}.html").write_text("")
        return folder

    return run


@pytest.fixture
def every(write):
    """Folders of a run of each kind, with pictures where the kind has some, out of order."""
    folders = {kind: write(kind, make()) for kind, make in reversed(MAKE.items())}
    images = np.linspace(0, 1, 2 * 16, dtype=np.float32).reshape(2, 1, 4, 4)
    np.savez(folders["membership"] / "exposed.npz", images=images[:1])
    np.savez(folders["class"] / "images.npz", **{"0-0": images, "0-1": images})
    np.savez(folders["gradients"] / "images.npz", **{"original": images, "0": images, "1": images})
    np.savez(folders["backdoor"] / "triggers.npz", mask=images, pattern=images)
    return list(folders.values())


def runs(*records):
    by_format = {kind.format: name for name, kind in KINDS.items()}
    return [Run(by_format[record["format"]], None, record) for record in records]


@pytest.mark.parametrize(
    ("record", "outcome", "value"),
    [
        (membership(), FOUND, 0.3),
        (membership(0.5, 0.01), NOTHING, 0.01),
        (membership(0.5, 0.3), FOUND, 0.3),
        (membership(0.5, 0.01, "inconclusive"), UNCLEAR, 0.01),
        (membership(0.8, 0.01, "inconclusive"), FOUND, 0.01),
        (classes(), FOUND, 0.9),
        (classes(0.03), NOTHING, 0.9),  # of two attacks
        (classes(0.03, any_zero=True), UNCLEAR, 0.9),
        (gradients(), FOUND, 60.0),
        (gradients("fails"), NOTHING, 60.0),
        (gradients("undecided"), UNCLEAR, 60.0),
        (gradients(known=False), UNCLEAR, None),
        (extract(), FOUND, 0.9),
        (extract(0.5), NOTHING, 0.9),  # as good as guessing one of two classes
        (attribute(), FOUND, 1.0),
        (attribute(0.03), NOTHING, 0.0),
        (property_(), FOUND, 0.8),
        (property_(0.5), NOTHING, 0.8),
        (scan(), FOUND, 1.0),
        (scan("not found"), NOTHING, 0.0),
        (scan("inconclusive"), UNCLEAR, None),
    ],
)
def test_a_run_is_judged_by_the_rule_of_its_kind(record, outcome, value):
    (told,) = report(runs(record))["runs"]
    assert (told["outcome"], told["value"]) == (outcome, value)


def test_the_strongest_of_many_attacks_does_not_decide_but_is_the_figure():
    lucky = membership(0.5, 0.01)
    lucky["attacks"].append(attack("rmia", 0.7, 0.2))
    (told,) = report(runs(lucky))["runs"]
    assert (told["outcome"], told["value"]) == (NOTHING, 0.2)


@pytest.mark.parametrize(
    ("text", "kind", "upper", "strict", "bound"),
    [
        ("membership <= 0.05", "membership", False, False, 0.05),
        (" upper( class )<.3 ", "class", True, True, 0.3),
        ("gradients <= 20", "gradients", False, False, 20.0),
        ("backdoor<=0", "backdoor", False, False, 0.0),
        ("membership <= 1e-3", "membership", False, False, 0.001),
    ],
)
def test_a_gate_is_read(text, kind, upper, strict, bound):
    assert parse(text)[1:] == (kind, upper, strict, bound)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "membership",
        "membership >= 0.1",
        "loss <= 0.1",
        "upper(class <= 0.1",
        "class) <= 0.1",
        "class <= 1.2.3",
        "class <= -1",
    ],
)
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(ConfigError, match="Expected a gate such as"):
        parse(text)
    with pytest.raises(ConfigError, match="not per cent"):
        parse("membership <= 5")


@given(st.lists(st.tuples(st.none() | st.floats(0, 1), st.booleans()), min_size=1, max_size=4), st.floats(0, 1), st.booleans())
def test_a_gate_holds_only_on_figures_that_are_all_known_sure_and_within(figures, bound, strict):
    findings = [Finding(FOUND, value, value, value, doubtful) for value, doubtful in figures]
    told = Gate("", "membership", False, strict, bound).check(findings)
    beyond = [value is not None and (value > bound or (strict and value == bound)) for value, _ in figures]
    known = all(value is not None and not doubtful for value, doubtful in figures)
    assert told["holds"] == (False if any(beyond) else True if known else None)
    assert told["value"] == max((value for value, _ in figures if value is not None), default=None)


def test_upper_takes_the_end_of_the_interval():
    assert report(runs(classes()), ["class <= 0.9"])["verdict"] == "pass"
    assert report(runs(classes()), ["upper(class) <= 0.9"])["verdict"] == "fail"


@pytest.mark.parametrize(
    ("records", "gates", "verdict", "code"),
    [
        ([membership()], None, "not gated", 0),
        ([membership(gate=gate(0.4)), scan("not found", gate=True)], None, "pass", 0),
        ([membership(gate=gate(0.05))], None, "fail", 1),
        ([membership(gate=gate(0.05))], ["membership <= 0.9"], "pass", 0),  # in place of its own
        ([scan(gate=True)], None, "fail", 1),
        ([scan("inconclusive", gate=True)], None, "inconclusive", 3),
        ([membership(0.5, 0.01, "inconclusive")], ["membership <= 0.05"], "inconclusive", 3),
        ([membership(0.8, 0.3, "inconclusive")], ["membership <= 0.05"], "fail", 1),
        ([gradients(known=False)], ["gradients <= 20"], "inconclusive", 3),
        ([gradients(known=False), classes()], ["class <= 0.9"], "inconclusive", 3),  # never 0 where a run cannot say
        ([scan("inconclusive")], None, "inconclusive", 3),
        ([scan("inconclusive"), classes()], ["backdoor <= 0", "class <= 0.1"], "fail", 1),
        ([classes(top1=0.2), classes(top1=0.8)], ["class <= 0.5"], "fail", 1),  # the worst of several
    ],
)
def test_the_verdict_and_its_exit_code(records, gates, verdict, code):
    record = report(runs(*records), gates)
    assert (record["verdict"], record["exit_code"]) == (verdict, code)


def test_the_verdict_in_words():
    other = {**scan("not found"), "model": {**MODEL, "hash": "b" * 64}}
    told = " ".join(
        report(runs(membership(), extract(), other, gradients(known=False)), ["membership <= 0.05", "extract <= 0.95"])[
            "sentences"
        ]
    )
    assert told.startswith("1 of 2 gates does not hold: membership <= 0.05 (30.0 % measured).")
    assert "The model gives away who was in its training data; its function, to whoever may ask it." in told
    assert "Nothing was found by backdoor scan" in told
    assert "Inconclusive: gradient inversion." in told
    assert "Not tried: class reconstruction, attribute inference and property inference." in told
    assert "of 2 models" in told
    assert "It carries a backdoor." in report(runs(scan()))["sentences"]
    assert report(runs(scan(gate=True)))["sentences"][0] == "The one gate does not hold: backdoor <= 0 (one measured)."
    assert shown("gradients", 20.0) == "20.0 dB"
    with pytest.raises(ConfigError, match="asks for a run of 'class'"):
        report(runs(membership()), ["class <= 0.1"])
    with pytest.raises(ConfigError, match="at least one run"):
        report([])


def test_the_page_shows_every_run_and_asks_nothing_of_the_network(every, tmp_path, fits):
    found = read(every)
    assert [run.kind for run in found] == list(KINDS)
    record = report(found, ["upper(class) <= 0.5", "extract <= 0.95"])
    text = page(found, record, tmp_path / "out")
    assert text == page(read(every), record, tmp_path / "out")
    assert text.count("data:image/png") == 1 + 2 + 2 * 2 + 2
    assert text.count("<svg") == 1 + 2  # the mark, the ROC curves, the copies
    assert "<i>" not in text.replace("</i>", "")
    assert "net&lt;i&gt;" in text
    assert "one&lt;b&gt;" in text
    links = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert {link for link in links if not link.startswith(("#", "data:"))} == {
        f"../{run.kind}/{KINDS[run.kind].stem}.html" for run in found
    }
    assert {f"#run-{place}" for place in range(7)} <= set(links)
    assert len(set(re.findall(r' id="([^"]+)"', text))) == len(re.findall(r' id="([^"]+)"', text))
    for words in (
        "does not hold",
        "LiRA, online",
        "Class images",
        "Originals",
        "Mask and trigger of class zero",
    ):
        assert words in text
    (tmp_path / "joined.html").write_text(text, encoding="utf-8")
    fits(tmp_path / "joined.html")


def test_a_run_without_its_pictures_is_shown_without_them(write, tmp_path):
    found = read([write("membership", membership()), write("class", classes()), write("gradients", gradients())])
    text = page(found, report(found), tmp_path)
    assert "data:image" not in text
    assert "No gate was set" in text


def test_a_folder_may_hold_several_runs_and_counts_once(write, tmp_path):
    folder = write("membership", membership())
    (folder / "scan.json").write_text(json.dumps(scan()))
    assert [run.kind for run in read([folder, tmp_path / "membership", folder])] == ["membership", "backdoor"]
    with pytest.raises(ConfigError, match=r"one of membership\.json, leakage\.json"):
        read([tmp_path])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "Expected the record of a run"),
        ("[" * 100_000, "Expected the record of a run"),
        ("[]", "got 'list'"),
        ('{"format": "trustsnn-membership/9"}', "got 'trustsnn-membership/9'"),
        (json.dumps(membership()).replace("0.8", "NaN", 1), "which no figure is"),
    ],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, text, told):
    (tmp_path / "membership.json").write_text(text)
    with pytest.raises(RunError, match=told):
        read([tmp_path])


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_record_with_a_part_missing_is_one_error(write, kind, tmp_path):
    whole, refused = MAKE[kind](), 0
    for number, name in enumerate(name for name in whole if name != "format"):
        record = copy.deepcopy(whole)
        record[name] = 3
        folder = write(kind, record, f"{kind}-{number}")
        try:
            found = read([folder])
            page(found, report(found), tmp_path)
        except RunError:
            refused += 1
    assert refused


def test_damaged_pictures_are_one_error(every, tmp_path):
    found = read(every)
    record = report(found)
    place = next(run.folder for run in found if run.kind == "class")
    for content in (b"", b"PK\x03\x04 cut", b"\x80\x04K\x01."):
        (place / "images.npz").write_bytes(content)
        with pytest.raises(RunError, match="Expected arrays of pictures"):
            page(found, record, tmp_path)
    np.savez(place / "images.npz", **{"0-0": np.zeros(3), "0-1": np.zeros(3)})
    with pytest.raises(RunError, match="damaged"):
        page(found, record, tmp_path)


def test_the_command_joins_runs_and_exits_by_the_gates(every, cli, tmp_path):
    done = cli("leakage", "report", *every, "--out", "joined", "--gate", "extract <= 0.95")
    assert done.exit_code == 0
    assert "pass: The one gate holds. The model gives away" in done.output
    record = json.loads((tmp_path / "joined" / "leakage-report.json").read_text())
    assert record["format"] == "trustsnn-leakage-report/1"
    assert (tmp_path / "joined" / "leakage-report.html").read_text().startswith("<!doctype html>")
    assert cli("leakage", "report", *every, "--out", "joined", "--gate", "upper(gradients) < 20").exit_code == 1
    assert cli("leakage", "report", every[-1], "--out", "joined").exit_code == 0
