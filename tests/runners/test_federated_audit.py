"""The audit of a federation: on runs whose leak is known."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

pytest.importorskip("flwr")

from trustsnn.checkpoint import model_hash
from trustsnn.errors import RunError
from trustsnn.federated.config import FederatedConfig
from trustsnn.models import build
from trustsnn.reports.federated_audit import lines
from trustsnn.runners.federated import Running, federate
from trustsnn.runners.federated_audit import Plan, audit

PLAN = Plan(samples=200, every=2, images=3)


def run(folder, look=(), norm="batch", **settings):
    model = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.25, norm=norm)
    given = {"clients": 3, "rounds": 3, "partition": "iid", **settings}
    config = FederatedConfig(architecture=model.architecture, start=model_hash(model), data="digits", **given)
    federate(config, model, folder, Running("inline", keep=True, look=look))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain") / "run", poison={1: "backdoor"})


def test_plain_updates_give_their_images_away(plain, tmp_path, fits):
    record = audit(plain, tmp_path, PLAN).record
    assert [row["round"] for row in record["rounds"]] == [0, 2, 3]
    bare, seen = record["inversion"]["cells"]
    assert bare["psnr"]["value"] == seen["psnr"]["value"] == 200.0
    assert seen["randomness"] is None
    assert [row["round"] for row in record["backdoor"]] == [1, 2, 3]
    assert any("it recovers them" in line for line in lines(record))
    assert any("sees every client's update" in line for line in lines(record))
    page = (tmp_path / "audit.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert json.loads((tmp_path / "audit.json").read_text())["config"]["clients"] == 3
    fits(tmp_path / "audit.html")


def test_secure_aggregation_hides_them(tmp_path):
    folder = run(tmp_path / "run", secure={}, rounds=1)
    record = audit(folder, tmp_path / "audit", PLAN).record
    bare, seen = record["inversion"]["cells"]
    assert bare["psnr"]["value"] == 200.0
    assert seen["psnr"]["value"] < 15
    assert seen["randomness"] > 1e-6
    assert any("does not recover them" in line for line in lines(record))


def test_whole_updates_are_inverted_as_they_were_sent(tmp_path):
    """Of clients with two samples and one step the update is a gradient, unless it is masked."""
    small = {"clients": 500, "fraction": 0.01, "holdout": 0.0, "rounds": 1, "local": {"batch_size": 2, "momentum": 0.0}}
    best = {}
    for name, more in (("plain", {"compression": "quantised:8"}), ("masked", {"secure": {}})):
        folder = run(tmp_path / name, look=(1,), norm="none", **small, **more)
        record = audit(folder, tmp_path / name / "audit", Plan(samples=100, every=1, images=2, iterations=150)).record
        assert [each["round"] for each in record["observed"]] == [1, 1]
        best[name] = max(each["psnr"] for each in record["observed"])
        assert any("whole updates as they were sent" in line for line in lines(record))
    assert best["plain"] > best["masked"] + 2


def test_overfitting_shows(tmp_path):
    """Clients of 36 samples that trained on them 40 times are told from others better than clients that were never asked."""
    folder = run(tmp_path / "run", clients=40, rounds=1, fraction=0.05, holdout=0.0, local={"epochs": 40, "batch_size": 8})
    record = audit(folder, tmp_path / "audit", Plan(samples=1000, every=1, images=1, most=0.5)).record
    asked = set(record_of(folder)["rounds"][0]["asked"])
    areas = {each["client"]: each["auc"]["value"] for each in record["clients"]}
    seen, unseen = ([area for client, area in areas.items() if (client in asked) is which] for which in (True, False))
    assert np.mean(seen) > 0.1 + np.mean(unseen)
    assert abs(np.mean(unseen) - 0.5) < 0.1
    assert record["rounds"][0]["auc"]["low"] < 0.5 < record["rounds"][0]["auc"]["high"]  # round 0 has seen nobody
    assert record["gate"]["exit_code"] == 0


def record_of(folder):
    return json.loads((folder / "federated.json").read_text())


def test_equal_audits_are_the_same_bytes(plain, tmp_path):
    for name in ("one", "two"):
        audit(plain, tmp_path / name, PLAN)
    for name in ("audit.json", "audit.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_cannot_be_audited_is_said(tmp_path):
    with pytest.raises(RunError, match="no federation in"):
        audit(tmp_path, tmp_path / "out")
    folder = run(tmp_path / "run", rounds=1)
    for path in (folder / "rounds").glob("global-*"):
        path.unlink()
    with pytest.raises(RunError, match="--keep"):
        audit(folder, tmp_path / "out")


def test_the_page_is_of_the_federation_too(plain, tmp_path):
    audit(plain, tmp_path, PLAN)
    text, alone = (tmp_path / "audit.html").read_text(), (plain / "federated.html").read_text()
    for heading in ("Accuracy by round", "Who owns what", "Clients"):
        assert f">{heading}</h2>" in text
        assert f">{heading}</h2>" in alone
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_federation_that_has_not_ended_is_not_audited(tmp_path):
    folder = run(tmp_path / "run", rounds=1)
    (folder / "federated.json").unlink()
    with pytest.raises(RunError, match="has not ended"):
        audit(folder, tmp_path / "out", PLAN)
