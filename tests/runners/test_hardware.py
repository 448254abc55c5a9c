"""Audits on hardware twins: chips differ and repeat, samples go from the network to the chips and back, and the report says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import trustsnn
from trustsnn.attacks import PGD
from trustsnn.blocks import frozen, predict
from trustsnn.errors import ConfigError
from trustsnn.hardware.choose import parse, seconds
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip
from trustsnn.neurons import STBP, SpikingNeuron, Surrogate
from trustsnn.runners import chips
from trustsnn.runners.config import make_config
from trustsnn.runners.plan import attacks_to_run, make_plan

TWIN = "sram:bits=4:ber=0.02"
SETTINGS = {
    "attacks": [{"attack": "pgd", "settings": {"steps": 5}}], "eps": [0.15], "samples": 30, "twins": [TWIN], "chips": 7, "quiet": True
}  # fmt: skip


def correct(model, x, y):
    with frozen(model):
        return int((predict(model, x).argmax(1) == y).sum())


def test_an_audit_on_chips_is_what_each_chip_does(digits_model, digits_test, tmp_path):
    run = trustsnn.audit(digits_model, digits_test, out=tmp_path / "run", **SETTINGS)
    data = digits_test.take(30, 0)
    x, y = map(torch.from_numpy, data.batch(range(30)))
    specimens = [deploy(digits_model, parse(TWIN), Chip(number)) for number in range(7)]
    attack = PGD(eps=0.15, steps=5, early_stop=False)
    on_network, on_chip = (attack.run(each, x, y, data.ids).adversarial for each in (digits_model, specimens[0]))
    clean, transferred, back = run.hardware
    assert [row["maker"] for row in run.hardware] == [None, "network", "chip"]
    for row, samples, who in ((clean, x, specimens), (transferred, on_network, specimens), (back, on_chip, specimens[1:])):
        expected = sorted(correct(each, samples, y) for each in who)
        assert [each["successes"] for each in row["chips"]] == expected
        assert row["median"]["successes"] == expected[(len(expected) - 1) // 2]
        assert row["worst"]["successes"] == expected[0]
        assert row["network"]["successes"] == correct(digits_model, samples, y)
    assert back["maker_accuracy"]["successes"] == correct(specimens[0], on_chip, y)
    assert len({each["successes"] for each in clean["chips"]}) > 1
    assert clean["over_chips"]["low"] == clean["chips"][0]["value"]
    assert clean["worst"]["value"] < run.clean_accuracy


def test_chips_change_no_figure_of_the_network_and_a_killed_run_goes_on(digits_model, tmp_path, files, monkeypatch):
    alone = trustsnn.audit(digits_model, "digits", out=tmp_path / "alone", **{**SETTINGS, "twins": []})
    whole = trustsnn.audit(digits_model, "digits", out=tmp_path / "whole", **SETTINGS)
    assert (alone.clean_accuracy, alone.robust_accuracy) == (whole.clean_accuracy, whole.robust_accuracy)
    assert alone.hardware == []

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trustsnn.runners.hardware.on_chips", killed)
        with pytest.raises(KeyboardInterrupt):
            trustsnn.audit(digits_model, "digits", out=tmp_path / "broken", **SETTINGS)
    trustsnn.audit(digits_model, "digits", out=tmp_path / "broken", **SETTINGS)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_a_run_deploys_each_chip_once_where_there_is_room(digits_model, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(chips, "deploy", lambda network, twins, chip: made.append(chip.number) or deploy(network, twins, chip))
    settings = {**SETTINGS, "twins": [TWIN, "sram:bits=4:ber=0.05"]}
    once = trustsnn.audit(digits_model, "digits", out=tmp_path / "once", **settings)
    assert sorted(made) == sorted([0, 0, *range(7), *range(7)])  # the plan asks for the first of each kind, before any cell
    made.clear()
    monkeypatch.setattr(chips, "KEPT", 0)
    assert trustsnn.audit(digits_model, "digits", out=tmp_path / "anew", **settings).hardware == once.hardware
    assert len(made) == 2 * (1 + 3 * 7 + 1)
    assert once.hardware[0]["chips"] != once.hardware[3]["chips"]


def test_samples_that_were_lost_are_made_again(digits_model, tmp_path):
    first = trustsnn.audit(digits_model, "digits", out=tmp_path / "a", **SETTINGS)
    lines = (tmp_path / "a" / "cells.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a" / "cells.jsonl").write_text("".join(lines[:2]))
    (made,) = (tmp_path / "a" / "cells").glob("*.npy")
    assert np.load(made).shape == (30, 1, 8, 8)
    made.write_bytes(b"torn")
    assert trustsnn.audit(digits_model, "digits", out=tmp_path / "a", **SETTINGS).hardware == first.hardware


def test_a_chip_that_hides_its_gradient_is_named(digits_model, tmp_path, monkeypatch):
    settings = {**SETTINGS, "samples": 60, "chips": 2, "twins": ["sram:bits=8:ber=0"]}
    honest = trustsnn.audit(digits_model, "digits", out=tmp_path / "honest", **settings)
    assert [row["status"] for row in honest.hardware] == ["ok"] * 3

    def hidden(network, twins, chip):
        found = deploy(network, twins, chip)
        for module in found.modules():
            if isinstance(module, SpikingNeuron):
                module.estimator = STBP(Surrogate("atan", 0.002))
        return found

    monkeypatch.setattr(chips, "deploy", hidden)
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "hidden", **settings)
    assert [row["status"] for row in run.hardware] == ["ok", "ok", "inconclusive"]
    assert run.hardware[2]["maker_accuracy"]["value"] > run.hardware[1]["median"]["value"]
    assert "network-beats-chip" in {finding["type"] for finding in run.findings}


def test_what_is_made_on_the_network_is_made_once_for_all_kinds_of_chips(digits_model):
    settings = {key: value for key, value in SETTINGS.items() if key != "quiet"}
    config = make_config({**settings, "attacks": [{"attack": "fgsm"}, {"attack": "pgd"}], "twins": [TWIN, "loihi"]})
    plan = make_plan(digits_model, {"model": "", "data": ""}, config)
    found = [(attack.name, getattr(attack, "early_stop", None)) for attack in attacks_to_run(plan)]
    assert sorted(found, key=str) == sorted(
        [("fgsm", None), ("pgd", True), ("pgd", False), *2 * [("fgsm", None), ("pgd", False)]], key=str
    )


def test_corruptions_run_on_chips_and_other_samples_do_not(digits_model, tmp_path):
    settings = {**SETTINGS, "attacks": [], "corruptions": ["pixelate"], "severities": [5], "ood": ["noise"], "chips": 2}
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "run", **settings)
    assert [row["threat"]["attack"] for row in run.hardware] == ["none", "corruption"]
    assert run.hardware[1]["network"]["value"] == run.natural_shift["corruptions"][0]["value"]
    assert run.hardware[0]["over_chips"] is None


def test_the_page_and_the_card_have_the_chips(digits_model, tmp_path):
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "run", **{**SETTINGS, "attacks": []})
    page, card = run.report.read_text(), (tmp_path / "run" / "card.md").read_text()
    for text in (page, card):
        assert TWIN in text
        assert "models of chips and no chips" in text
    assert "The behaviour on neuromorphic hardware" not in page


def test_twins_need_trustsnns_own_layers(tmp_path):
    plain = trustsnn.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), time_steps=1, input_shape=(1, 8, 8))
    with pytest.raises(ConfigError, match="trustsnn's own layers"):
        trustsnn.audit(plain, "digits", out=tmp_path / "run", **SETTINGS)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("pmc", "Did you mean 'pcm'"),
        ("pcm@soon", "a time such as 25s"),
        ("pcm@3 fortnights", "Units"),
        ("sram@1h", "no setting 'time'"),
        ("sram:bits", "name=value"),
        ("sram:colour=2", "no setting 'colour'"),
    ],
)
def test_a_line_that_names_no_chip_is_refused(line, match):
    with pytest.raises(ConfigError, match=match):
        parse(line)


def test_times_and_parts_of_a_line():
    assert [seconds(text) for text in ("25s", "2h", "1.5min", "1month")] == [25, 7200, 90, 30 * 86_400]
    found = parse("pcm@1month + sram:bits=8:ber=1/1000")
    assert [each.name for each in found] == ["pcm", "sram"]
    assert (found[0].time, found[1].bits, found[1].ber) == (2_592_000, 8, 0.001)
