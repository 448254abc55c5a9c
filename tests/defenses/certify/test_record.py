"""The certificate file: what it holds, that its checker confirms it, and that the checker refuses what the evidence does not carry."""

from __future__ import annotations

import copy
import csv
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from trustsnn.canonical import sha256_of
from trustsnn.defenses.certify import Rate, Smoothing, Verified, certified_accuracy, certify, check, check_again, read, write
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.models import build

METHODS = ("smoothing", "rate", "ibp", "crown")


def resealed(content, **changes):
    """`content` with changes to the whole or, by "entry", to the first sample with a radius, and the hash of that."""
    changed = copy.deepcopy({key: value for key, value in content.items() if key != "sha256"})
    entry = next(each for each in changed["samples"] if each["radius"] is not None)
    entry.update(changes.pop("entry", {}))
    changed.update(changes)
    return {**changed, "sha256": sha256_of(changed)}


@pytest.mark.parametrize("method", METHODS)
def test_a_file_comes_back_and_is_confirmed_with_and_without_the_model(method, contents, models, few, tmp_path):
    content = contents[method]
    path = write(content, tmp_path)
    assert read(path) == content
    certified = sum(entry["radius"] is not None for entry in content["samples"])
    assert certified >= 3
    assert check(content) == certified
    assert check_again(content, models[method], few) == 8
    rows = list(csv.DictReader((tmp_path / "certificates.csv").read_text().splitlines()))
    assert [row["sample"] for row in rows] == list(few.ids)
    root = ElementTree.parse(tmp_path / "certified.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    first, last = content["curve"][0], content["curve"][-1]
    assert first["radius"] == 0
    assert first["successes"] >= last["successes"]
    assert content["curve"][0]["successes"] == certified_accuracy(content["samples"], content["norm"], 0.0)["successes"]


@pytest.mark.parametrize("method", METHODS)
def test_the_file_of_a_sample_does_not_depend_on_the_others(method, contents, models, few):
    alone = certify(models[method], few.select([5, 2]), _method(contents[method]))
    assert alone["samples"] == [contents[method]["samples"][5], contents[method]["samples"][2]]


def _method(content):
    return {"smoothing": Smoothing, "rate": Rate}.get(content["method"], Verified)(**content["settings"])


WRONG = [
    ("smoothing", {"radius": 0.9}, "needs a probability above"),
    ("smoothing", {"low": 0.999, "radius": 0.3}, "do not bound the probability"),
    ("smoothing", {"successes": 120}, "do not bound the probability"),
    ("smoothing", {"prediction": 11}, "no class 11"),
    ("smoothing", {"prediction": None, "radius": None}, "has to abstain"),
    ("smoothing", {"radius": "far"}, "of another kind"),
    ("rate", {"radius": 0.6}, "the distributions can differ"),
    ("rate", {"low": 0.9999}, "do not bound the probability"),
    ("rate", {"high": 0.0}, "do not bound the others"),
    ("rate", {"counts": [200] * 10}, "are not 200"),
    ("rate", {"union_radius": 0.59}, "the union bound"),
    ("ibp", {"margin": -0.1}, "verifies nothing"),
    ("crown", {"margin": None}, "a margin where there is a radius"),
    ("crown", {"radius": 0.2}, "verifies nothing"),
]


@pytest.mark.parametrize(("method", "entry", "message"), WRONG)
def test_a_radius_that_the_evidence_does_not_carry_is_refused(method, entry, message, contents):
    with pytest.raises(UnsafeArtifactError, match=message):
        check(resealed(contents[method], entry=entry))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"curve": [{**c["curve"][0], "successes": 8}]}, "the curve at"),
        (lambda c: {"samples": c["samples"][1:]}, "expected 8 samples"),
        (lambda c: {"samples": [{**e, "label": 3} for e in c["samples"]]}, "not those of samples_sha256"),
        (lambda c: {"method": "magic"}, "unknown method"),
        (lambda c: {"settings": {}}, "a field is missing"),
        (lambda c: {"settings": {**c["settings"], "sigma": -0.1}}, "no sigma of the method 'smoothing': -0.1"),
        (lambda c: {"settings": {**c["settings"], "sigma": 0}}, "no sigma"),
        (lambda c: {"settings": {**c["settings"], "alpha": 2.0}}, "no alpha"),
        (lambda c: {"settings": {**c["settings"], "draws": 0.5}}, "no draws"),
        (lambda c: {"correct": {**c["correct"], "value": 1.1}}, "correct: . of 8 is not 1.1"),
        (lambda c: {"correct": {**c["correct"], "successes": 9}}, "correct: . of 8 hold"),
        (lambda c: {"curve": [{**c["curve"][-1], "high": 0.99}]}, "does not end at 0.99"),
        (lambda c: {"curve": [{**c["curve"][0], "low": c["curve"][0]["value"]}]}, "does not end at"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change, message, contents):
    content = contents["smoothing"]
    with pytest.raises(UnsafeArtifactError, match=message):
        check(resealed(content, **change(content)))


def test_votes_and_bounds_that_do_not_come_out_again_are_refused(contents, models, few):
    entry = next(each for each in contents["smoothing"]["samples"] if each["radius"] is not None)
    fewer = resealed(contents["smoothing"], entry={"successes": entry["successes"] + 1})
    check(fewer)  # the weaker bound still follows from one vote more
    with pytest.raises(UnsafeArtifactError, match="the same draws give"):
        check_again(fewer, models["smoothing"], few)
    wider = resealed(contents["crown"], entry={"margin": 1e6})
    check(wider)
    with pytest.raises(UnsafeArtifactError, match=r"not of 1000000\.0"):
        check_again(wider, models["crown"], few)
    settings = {**contents["crown"]["settings"], "largest": 0.5}
    further = resealed(contents["crown"], entry={"radius": 0.45}, settings=settings, curve=[])
    check(further)
    with pytest.raises(UnsafeArtifactError, match="the slow bounds leave a margin of -"):
        check_again(further, models["crown"], few)


def test_another_model_or_other_data_is_refused(contents, models, few, digits_train):
    with pytest.raises(ConfigError, match="of another model"):
        check_again(contents["ibp"], models["smoothing"], few)
    with pytest.raises(ConfigError, match="of other data"):
        check_again(contents["ibp"], models["ibp"], digits_train.take(8))


@pytest.mark.parametrize(
    "spoil", [lambda t: t[:-30], lambda t: t.replace('"draws": 200', '"draws": 201'), lambda t: "[]", lambda t: "{}"]
)
def test_an_altered_file_is_refused(spoil, contents, tmp_path):
    path = write(contents["smoothing"], tmp_path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UnsafeArtifactError, match=r"altered or cut short|no certificate file"):
        read(path)


def test_the_checker_of_a_file_needs_no_torch(contents, tmp_path):
    path = write(contents["rate"], tmp_path)
    code = (
        "import builtins\nreal = builtins.__import__\n"
        "def without(name, *rest, **more):\n    assert name.split('.')[0] != 'torch'\n    return real(name, *rest, **more)\n"
        "builtins.__import__ = without\n"
        "from pathlib import Path\nfrom trustsnn.defenses.certify.checker import check, read\n"
        f"print(check(read(Path({str(path)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert int(done.stdout) == check(contents["rate"])


def test_data_that_does_not_fit_the_model_is_refused(few):
    with pytest.raises(ConfigError, match="does not fit the model"):
        certify(build("mlp", input_shape=(1, 5, 5), classes=10), few, Verified())


def test_the_json_holds_no_number_that_is_none(contents, tmp_path):
    text = write(contents["crown"], tmp_path).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["environment"]["trustsnn"]
