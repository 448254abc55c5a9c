"""The audit: its figures do not depend on how it was run, a killed one goes on, and what is broken is named."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trustsnn
from trustsnn.attacks import PGD
from trustsnn.attacks.verdict import domain_violated, nonfinite_gradients, one_step_beats_iterative, zero_gradients
from trustsnn.blocks import frozen
from trustsnn.errors import ConfigError, DataError, ModelContractError, RunError
from trustsnn.models import build, check_contract
from trustsnn.runners.config import make_config, parse_eps, parse_memory, read_config
from trustsnn.runners.plan import make_plan

QUICK = {"samples": 60, "eps": [0.05, 0.1], "quiet": True}
ATTACKS = [{"attack": "fgsm"}, {"attack": "pgd", "settings": {"steps": 4}}]


def figures(run):
    return run.clean_accuracy, run.robust_accuracy


@pytest.fixture(scope="module")
def checkpoint(digits_model, tmp_path_factory):
    return trustsnn.save(digits_model, tmp_path_factory.mktemp("models") / "digits")


@pytest.mark.parametrize("kind", ["deterministic", "poisson"])
def test_figures_do_not_depend_on_batch_size_or_order(kind, digits_model, poisson_model, digits_test, tmp_path, files):
    model = digits_model if kind == "deterministic" else poisson_model
    pgd = {"steps": 3, "restarts": 2, "eot": 1 if kind == "deterministic" else 2}
    settings = {"eps": [0.1], "quiet": True, "samples": 12, "attacks": [{"attack": "pgd", "settings": pgd}]}
    whole = trustsnn.audit(model, digits_test, out=tmp_path / "whole", **settings, batch_size=1000)
    for size in (1, 5):
        trustsnn.audit(model, digits_test, out=tmp_path / str(size), **settings, batch_size=size)
        assert files(tmp_path / str(size)) == files(tmp_path / "whole")
    order = np.random.default_rng(0).permutation(len(digits_test))
    shuffled = trustsnn.audit(model, digits_test.select(order), out=tmp_path / "shuffled", **settings)
    assert files(tmp_path / "shuffled") == files(tmp_path / "whole")
    assert figures(shuffled) == figures(whole)
    assert 0 < whole.robust_accuracy["linf", 0.1].value < whole.clean_accuracy


@pytest.mark.parametrize("wrong", [False, True])
def test_a_model_is_left_in_the_mode_that_it_was_in(wrong, digits_model, digits_test):
    model = copy.deepcopy(digits_model).train()
    model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    settings = {"eps": [0.1], "samples": 10, "attacks": [], "quiet": True}
    if wrong:
        with pytest.raises(ConfigError):
            trustsnn.audit(model, digits_test, gates=["nothing >= 1"], **settings)
    else:
        assert trustsnn.audit(model, digits_test, **settings).clean_accuracy > 0.8
    assert [module.training for module in model.modules()] == modes


def test_memory_bounds_the_samples_that_are_attacked_together(digits_model, digits_test, tmp_path, files, monkeypatch):
    settings = {"eps": [0.1], "quiet": True, "samples": 30, "attacks": [{"attack": "pgd", "settings": {"steps": 2}}]}
    trustsnn.audit(digits_model, digits_test, out=tmp_path / "free", **settings)
    together, run = [], PGD.run
    monkeypatch.setattr(PGD, "run", lambda self, model, x, *rest: together.append(len(x)) or run(self, model, x, *rest))
    model = copy.deepcopy(digits_model)
    model.memory = 1
    with frozen(model):
        assert model.affordable == 1
    trustsnn.audit(digits_model, digits_test, out=tmp_path / "bound", **settings, memory=14 * model._bytes)
    assert max(together) == 7
    assert files(tmp_path / "bound") == files(tmp_path / "free")


def test_eps_zero_is_clean_and_more_budget_never_helps_the_model(digits_model, tmp_path):
    run = trustsnn.audit(
        digits_model, "digits", out=tmp_path / "run", norms=["linf", "l2"], eps=[0, 0.1, 0.2], samples=80, quiet=True
    )
    for norm in ("linf", "l2"):
        values = [run.robust_accuracy[norm, eps].value for eps in (0, 0.1, 0.2)]
        assert values[0] == run.clean_accuracy
        assert values == sorted(values, reverse=True)
    assert run.verdict == "pass"
    assert run.report.exists()


def test_a_profile_is_run_at_every_norm_that_its_attacks_have(digits_model, tmp_path):
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "l1", norms=["l1"], **{**QUICK, "samples": 30, "eps": [3.0]})
    threats = [cell["cell"]["threat"] for cell in run.summary["cells"] if cell["cell"]["threat"]["attack"] != "none"]
    assert {(threat["attack"], threat["norm"]) for threat in threats} == {("pgd", "l1"), ("snn-autoattack", "l1")}
    assert run.robust_accuracy["l1", 3.0].value < 0.9
    with pytest.raises(ConfigError, match=r"No attack of this audit has the norm 'l0'\. Its attacks: fgsm \(linf, l2\)"):
        trustsnn.audit(digits_model, "digits", out=tmp_path / "l0", norms=["linf", "l0"], attacks=[{"attack": "fgsm"}], **QUICK)
    with pytest.raises(ConfigError, match=r"number of pixels in the norm l0, got 0\.05"):
        trustsnn.audit(digits_model, "digits", out=tmp_path / "l0", norms=["l0"], **QUICK)
    with pytest.raises(ConfigError, match="The attack 'pgd0' is for the norm l0, got the norms linf"):
        trustsnn.audit(digits_model, "digits", out=tmp_path / "l0", attacks=[{"attack": "pgd0"}], **QUICK)
    assert not (tmp_path / "l0").exists()


@pytest.mark.parametrize("profile", ["quick", "standard", "full"])
def test_an_ensemble_that_is_named_is_that_of_the_profile(profile, digits_model):
    def ensemble(settings):
        config = make_config({"profile": profile, "attacks": [{"attack": "snn-autoattack", "settings": settings}], "eps": [0.1]})
        return make_plan(digits_model, {"model": "m", "data": "d"}, config)[1].attack

    by_profile = make_plan(digits_model, {"model": "m", "data": "d"}, make_config({"profile": profile, "eps": [0.1]}))
    assert ensemble({}) in [each.attack for each in by_profile]
    assert ensemble({}).profile == profile
    assert ensemble({"profile": "standard"}).profile == "standard"


@pytest.mark.parametrize("profile", ["quick", "standard", "full"])
def test_no_two_cells_have_the_same_name(digits_model, profile):
    """Nor those of one attack whose settings were given as a list."""
    attacks = [{"attack": "pgd", "settings": {"steps": [10, 20], "restarts": [1, 2], "loss": ["ce", "margin"]}}]
    for more in ({}, {"attacks": attacks}):
        plan = make_plan(digits_model, {"model": "m", "data": "d"}, make_config({"profile": profile, "eps": [0.1, 0.2], **more}))
        assert len({each.label for each in plan}) == len(plan)


def test_a_list_of_a_setting_is_an_attack_for_each_entry(digits_model, tmp_path):
    attacks = [{"attack": "apgd", "settings": {"steps": [2, 4], "restarts": [1, 2], "loss": "dlr"}}, {"attack": "fgsm"}]
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "run", attacks=attacks, **{**QUICK, "samples": 20, "eps": [0.1]})
    threats = [cell["cell"]["threat"] for cell in run.summary["cells"]]
    found = [(each["attack"], each.get("steps"), each.get("restarts")) for each in threats]
    assert found == [("none", None, None), *(("apgd", s, r) for s in (2, 4) for r in (1, 2)), ("fgsm", None, None)]
    curves = run.summary["effort_curves"]
    assert [(each["setting"], [point["number"] for point in each["points"]]) for each in curves] == [
        ("steps", [2, 4]), ("steps", [2, 4]), ("restarts", [1, 2]), ("restarts", [1, 2])
    ]  # fmt: skip
    for nothing in ([], {}, [[1]]):
        with pytest.raises(
            ConfigError, match=r"attacks\.1\.settings: expected a number, .*, or a list of some of them, for steps, got"
        ):
            make_config({"attacks": [attacks[0], {"attack": "pgd", "settings": {"steps": nothing}}]})


def test_the_worst_case_is_per_sample_over_cells(digits_model, tmp_path):
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "run", attacks=ATTACKS, **QUICK)
    table = pq.read_table(tmp_path / "run" / "samples.parquet").to_pandas()
    robust = table.groupby("sample")["correct"].all()
    assert run.robust_accuracy["linf", 0.1].value == robust.mean()
    assert len(table) == 5 * 60


def test_a_search_for_the_smallest_eps_runs_once_and_gives_a_curve(digits_model, tmp_path, capsys):
    attacks = [{"attack": "pgd", "settings": {"steps": 4}}, {"attack": "bisection", "settings": {"rounds": 2}}]
    settings = {"eps": [0.05, 0.15], "samples": 24, "attacks": attacks}
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "run", **settings)
    cells = [cell["cell"]["threat"] for cell in run.summary["cells"]]
    assert [(threat["attack"], threat["eps"]) for threat in cells] == [
        ("none", 0.0), ("pgd", 0.05), ("pgd", 0.15), ("bisection", 0.15),
    ]  # fmt: skip
    (curve,) = run.summary["robust_curves"]
    by_eps = {point["eps"]: point["successes"] for point in curve["points"]}
    assert by_eps[0.0] == round(run.clean_accuracy * 24)
    assert by_eps[0.15] == round(run.robust_accuracy["linf", 0.15].value * 24)
    assert 0 < curve["median"]["value"] < 0.15
    assert "bisection: at most" in capsys.readouterr().err


def test_an_attack_of_torchattacks_is_audited_by_its_name(digits_model, tmp_path):
    pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    attacks = [{"attack": "torchattacks/PGD", "settings": {"steps": 3, "batched": True}}]
    run = trustsnn.audit(digits_model, "digits", out=tmp_path / "run", attacks=attacks, eps=[0.15], samples=24, quiet=True)
    threat = run.summary["cells"][1]["cell"]["threat"]
    assert (threat["attack"], threat["settings"], threat["batched"]) == ("torchattacks/PGD", {"steps": 3}, True)
    assert run.robust_accuracy["linf", 0.15].value < run.clean_accuracy
    wrong = [{"attack": "torchattacks/PGD", "settings": {"step": 3}}]
    with pytest.raises(ConfigError, match="no setting step"):
        trustsnn.audit(digits_model, "digits", out=tmp_path / "wrong", attacks=wrong, eps=[0.15], quiet=True)


COMMAND = ["--data", "digits", "--eps", "0.05,0.1,0.15", "--samples", "60", "--quiet", "--gate", "clean_accuracy >= 0.5"]


def command(checkpoint, out):
    return [sys.executable, "-m", "trustsnn", "audit", str(checkpoint), *COMMAND, "--out", str(out)]


def test_a_run_killed_three_times_ends_as_an_unbroken_one(checkpoint, tmp_path, files):
    subprocess.run(command(checkpoint, tmp_path / "unbroken"), check=True, capture_output=True)
    broken = tmp_path / "broken"
    for lines in (1, 4, 8):
        process = subprocess.Popen(command(checkpoint, broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cells = broken / "cells.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not cells.exists() or cells.read_bytes().count(b"\n") < lines):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed: the test shows nothing"
    with open(cells, "ab") as stream:
        stream.write(b'{"key":"torn')  # and the power went in the middle of a line
    subprocess.run(command(checkpoint, broken), check=True, capture_output=True)
    assert files(broken) == files(tmp_path / "unbroken")


def test_ctrl_c_keeps_what_is_done_and_exits_incomplete(checkpoint, tmp_path):
    out = tmp_path / "run"
    long = [*command(checkpoint, out), "--attacks", "pgd", "--eps", ",".join(f"{eps / 50}" for eps in range(1, 7))]
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background is started deaf to Ctrl-C
    process = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listens)
    while not (out / "cells.jsonl").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "run the same command again" in message
    assert "Traceback" not in message
    assert len((out / "cells.jsonl").read_text().splitlines()) < 7
    assert subprocess.run(long, check=False, capture_output=True).returncode == 0


def test_a_finished_run_is_not_run_again_and_gates_may_change(digits_model, tmp_path):
    out = tmp_path / "run"
    first = trustsnn.audit(digits_model, "digits", out=out, attacks=ATTACKS, **QUICK)
    times = (out / "timings.jsonl").read_bytes()
    again = trustsnn.audit(
        digits_model, "digits", out=out, attacks=ATTACKS, gates=["robust_accuracy[linf,0.1] >= 0.999999"], **QUICK
    )
    assert (out / "timings.jsonl").read_bytes() == times
    assert (first.exit_code, again.exit_code, again.verdict) == (0, 1, "fail")


@pytest.mark.parametrize("change", [{"eps": [0.05]}, {"seed": 1}, {"samples": 59}])
def test_a_folder_of_another_run_is_refused_and_left_alone(change, digits_model, tmp_path, files):
    out = tmp_path / "run"
    trustsnn.audit(digits_model, "digits", out=out, attacks=ATTACKS, **QUICK)
    before = files(out)
    with pytest.raises(RunError, match="another run"):
        trustsnn.audit(digits_model, "digits", out=out, attacks=ATTACKS, **{**QUICK, **change})
    assert files(out) == before


def test_another_model_or_a_stranger_folder_is_refused(digits_model, tmp_path):
    out = tmp_path / "run"
    trustsnn.audit(digits_model, "digits", out=out, attacks=[], **QUICK)
    with pytest.raises(RunError, match="model"):
        trustsnn.audit(build("mlp", input_shape=(1, 8, 8), classes=10), "digits", out=out, attacks=[], **QUICK)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"thesis\.txt"):
        trustsnn.audit(digits_model, "digits", out=tmp_path / "other", attacks=[], **QUICK)


def test_a_lost_cell_is_evaluated_again(digits_model, tmp_path, files):
    out = tmp_path / "run"
    trustsnn.audit(digits_model, "digits", out=out, attacks=ATTACKS, **QUICK)
    before = files(out)
    cells = sorted((out / "cells").glob("*.parquet"))
    cells[0].unlink()
    cells[1].write_bytes(b"PAR1")
    trustsnn.audit(digits_model, "digits", out=out, attacks=ATTACKS, **QUICK)
    after = files(out)
    assert {k: v for k, v in after.items() if k != "cells.jsonl"} == {k: v for k, v in before.items() if k != "cells.jsonl"}


def test_a_full_disk_is_one_error_and_loses_nothing(digits_model, tmp_path, monkeypatch, files):
    trustsnn.audit(digits_model, "digits", out=tmp_path / "whole", attacks=ATTACKS, **QUICK)
    real, calls = os.fsync, [0]

    def full(descriptor):
        calls[0] += 1
        if calls[0] > 12:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("trustsnn.files.os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        trustsnn.audit(digits_model, "digits", out=tmp_path / "run", attacks=ATTACKS, **QUICK)
    monkeypatch.undo()
    assert (tmp_path / "run" / "cells.jsonl").read_text().count("\n") >= 1
    trustsnn.audit(digits_model, "digits", out=tmp_path / "run", attacks=ATTACKS, **QUICK)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_two_writers_do_not_meet(digits_model, tmp_path):
    import fcntl

    out = tmp_path / "run"
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(RunError, match="Another process"):
        trustsnn.audit(digits_model, "digits", out=out, attacks=[], **QUICK)
    os.close(descriptor)


def test_data_of_every_kind(digits_model, digits_test, tmp_path):
    x, y = (torch.from_numpy(values) for values in digits_test.batch(range(40)))
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    runs = [
        trustsnn.audit(digits_model, data, out=tmp_path / name, attacks=ATTACKS, eps=[0.1], quiet=True)
        for name, data in {"tensors": (x, y), "arrays": (x.numpy(), y.numpy()), "loader": loader}.items()
    ]
    assert figures(runs[0]) == figures(runs[1]) == figures(runs[2])
    with pytest.raises(ConfigError, match="DataLoader"):
        trustsnn.audit(digits_model, 7, quiet=True)
    with pytest.raises(ConfigError, match="does not fit"):
        trustsnn.audit(digits_model, (torch.rand(4, 1, 9, 9), torch.zeros(4, dtype=torch.long)), quiet=True)
    bad = x.clone()
    bad[3, 0, 2, 2] = torch.nan
    with pytest.raises(DataError, match="sample 3"):
        trustsnn.audit(digits_model, (bad, y), quiet=True)
    with pytest.raises(DataError, match="label"):
        trustsnn.audit(digits_model, (x, y + 10), quiet=True)


class Own(nn.Module):
    """A module that is not trustsnn's; `fault` plants one."""

    def __init__(self, fault: str = "", factor: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.fault, self.factor = fault, factor
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        z = self.linear(x.flatten(1)) * self.factor
        if self.fault == "state":
            z = z + self.count * torch.eye(10)[self.count % 10]
        if self.fault == "noise":
            z = z + torch.randn(len(x), 10)
        if self.fault == "masked":
            z = (z * 4).round()
        if self.fault == "shapes" and self.count > 1:
            raise RuntimeError("The size of tensor a (32) must match the size of tensor b (8)")
        return z


@pytest.mark.parametrize(
    ("fault", "found"), [("state", "contract-repeat"), ("noise", "contract-repeat"), ("masked", "zero-gradient")]
)
def test_an_evaluation_that_cannot_be_trusted_is_inconclusive(fault, found, tmp_path):
    torch.manual_seed(0)
    model = trustsnn.wrap(Own(fault), time_steps=1)
    run = trustsnn.audit(model, "digits", out=tmp_path / "run", attacks=ATTACKS, **QUICK)
    assert (run.verdict, run.exit_code) == ("inconclusive", 3)
    assert found in {finding["type"] for finding in run.findings}


def test_a_sound_foreign_module_passes(tmp_path):
    torch.manual_seed(0)
    run = trustsnn.audit(trustsnn.wrap(Own(), time_steps=1), "digits", out=tmp_path / "run", **QUICK)
    assert (run.verdict, run.findings) == ("pass", [])


def test_a_foreign_module_with_another_attribute_is_another_model(tmp_path):
    torch.manual_seed(0)
    one = Own()
    trustsnn.audit(trustsnn.wrap(one, time_steps=1), "digits", out=tmp_path / "run", attacks=ATTACKS, **QUICK)
    one.factor = 2.0
    with pytest.raises(RunError, match="model"):
        trustsnn.audit(trustsnn.wrap(one, time_steps=1), "digits", out=tmp_path / "run", attacks=ATTACKS, **QUICK)


def test_a_module_that_fails_is_one_error(tmp_path):
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel for this device")

    with pytest.raises(ModelContractError, match="no kernel"):
        trustsnn.audit(trustsnn.wrap(Broken(), time_steps=1, classes=10), "digits", out=tmp_path / "a", **QUICK)
    findings = check_contract(trustsnn.wrap(Own("shapes"), time_steps=1), torch.rand(4, 1, 8, 8), 10)
    assert "a second forward fails" in findings[0]["message"]


def test_an_attack_that_raises_is_an_error_cell(digits_model, tmp_path, monkeypatch):
    def explode(self, *_):
        raise ValueError("planted")

    with monkeypatch.context() as patch:
        patch.setattr("trustsnn.attacks.fgsm.FGSM._run", explode)
        run = trustsnn.audit(digits_model, "digits", out=tmp_path / "run", attacks=ATTACKS, **QUICK)
    assert (run.verdict, run.exit_code) == ("inconclusive", 3)
    assert any("planted" in finding["message"] for finding in run.findings)
    mended = trustsnn.audit(digits_model, "digits", out=tmp_path / "run", attacks=ATTACKS, **QUICK)
    assert (mended.verdict, mended.findings) == ("pass", [])


def test_what_failed_at_first_is_held_against_the_others_all_the_same(digits_model, tmp_path, monkeypatch):
    """One step that beats many is named whether or not the one step was there when the many were done."""
    still = {"attack": "pgd", "settings": {"step_size": 1e-6, "random_start": False}}
    settings = {**QUICK, "eps": [0.3], "attacks": [{"attack": "fgsm"}, still]}
    with monkeypatch.context() as patch:
        patch.setattr("trustsnn.attacks.fgsm.FGSM._run", lambda *_: 1 / 0)
        trustsnn.audit(digits_model, "digits", out=tmp_path / "resumed", **settings)
    found = [trustsnn.audit(digits_model, "digits", out=tmp_path / name, **settings).findings for name in ("resumed", "whole")]
    assert "one-step-beats-iterative" in {finding["type"] for finding in found[0]}
    assert found[0] == found[1]


def test_findings_by_hand():
    yes, no = np.ones(40, dtype=bool), np.zeros(40, dtype=bool)
    assert zero_gradients(no) == []
    assert zero_gradients(np.array([True] * 3 + [False] * 37))[0]["type"] == "zero-gradient"
    assert zero_gradients(np.array([True] * 2 + [False] * 38)) == []
    assert nonfinite_gradients(no) == []
    assert nonfinite_gradients(yes)[0]["evidence"]["nonfinite_gradients"] == 40
    assert one_step_beats_iterative(yes, no) == []
    assert one_step_beats_iterative(no, yes)[0]["type"] == "one-step-beats-iterative"
    assert one_step_beats_iterative(np.array([False] * 3 + [True] * 37), yes) == []  # 3 of 3: p = 0.125
    assert domain_violated(0.1, 0.1, 0.0, 1.0) == []
    for violated in ((0.101, 0.1, 0.0, 1.0), (0.1, 0.1, 0.0, 1.001), (0.1, 0.1, -0.001, 1.0)):
        assert domain_violated(*violated)[0]["type"] == "domain-violated"


def test_eps_is_a_number_or_a_fraction():
    assert parse_eps("8/255") == 8 / 255
    assert parse_eps(0.1) == parse_eps("0.1") == 0.1
    for bad in (-0.1, "-8/255", "1/0", "__import__('os')", "nan", "inf", True, None):
        with pytest.raises(ValueError, match="eps of at least 0"):
            parse_eps(bad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epz": [0.1]}, "epz: unknown key"),
        ({"eps": [-0.1]}, "eps of at least 0"),
        ({"eps": []}, "at least one entry"),
        ({"profile": "deluxe"}, "quick, standard, full"),
        ({"samples": 0}, "samples"),
        ({"batch_size": 0}, "batch_size"),
        ({"attacks": [{"attack": "pgd", "steps": 3}]}, "unknown key"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_config(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": [{"attack": "pdg"}]}, "Did you mean 'pgd'"),
        ({"attacks": [{"attack": "pgd", "settings": {"stepz": 3}}]}, "no setting stepz"),
        ({"attacks": [{"attack": "pgd", "settings": {"steps": 2.5}}]}, "steps of pgd as int"),
        ({"attacks": [{"attack": "pgd", "settings": {"early_stop": "no"}}]}, "early_stop of pgd as bool"),
        ({"attacks": ATTACKS + ATTACKS}, "are the same"),
        ({"attacks": [{"attack": "pgd", "estimator": {"width": -1}}]}, "positive surrogate width"),
        ({"attacks": [{"attack": "pgd", "estimator": {"name": "harp"}}]}, "Did you mean 'hart'"),
        ({"attacks": [{"attack": "pgd", "estimator": {"name": "rga", "width": 1}}]}, "no setting width"),
        ({"attacks": [{"attack": "snn-autoattack", "settings": {"loss": "dlr"}}]}, "brings its own"),
        ({"norms": ["l7"]}, "Known: linf, l2"),
        ({"gates": ["robust_accuracy[linf,0.3] >= 0.1"]}, "not audited"),
        ({"gates": ["__import__('os')"]}, "Expected a gate"),
    ],
)
def test_wrong_plans_are_refused_before_anything_is_written(settings, message, digits_model, tmp_path):
    with pytest.raises(ConfigError, match=message):
        trustsnn.audit(digits_model, "digits", out=tmp_path / "run", **{**QUICK, **settings})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eps: [0.1", "Could not read"),
        ("- eps", "Expected keys and values"),
        ("gates: [a]\ngates: []", "given twice"),
        ("x: !!python/object/apply:os.system ['touch run-by-yaml']", "Could not read"),
        ("[" * 3000, "Could not read"),
    ],
)
def test_wrong_config_files_are_refused_and_never_run(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "audit.yaml")
    assert not (tmp_path / "run-by-yaml").exists()


def test_the_run_folder_keeps_its_contract(digits_model, tmp_path):
    out = tmp_path / "run"
    trustsnn.audit(digits_model, "digits", out=out, attacks=ATTACKS, **QUICK)
    head = json.loads((out / "run.json").read_text())
    lines = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [entry["key"] for entry in head["cells"]]
    assert {p.name for p in out.iterdir()} == {
        "run.json", "cells.jsonl", "cells", "timings.jsonl", "samples.parquet", "samples.csv", "report.html", "report.json",
        "junit.xml", "card.md",
    }  # fmt: skip
    for line in lines:
        assert line["status"] == "ok"
        assert 0 < line["spike_rates"][0]["rate"] < 1
        table = pq.read_table(out / "cells" / f"{line['key']}.parquet").to_pandas()
        assert table["correct"].sum() == line["accuracy"]["successes"]
        assert (table["linf"] <= line["cell"]["threat"]["eps"] * (1 + 1e-6) + 1e-7).all()
        if line["cell"]["threat"]["attack"] != "none":
            with np.load(out / "cells" / f"{line['key']}.npz", allow_pickle=False) as pictures:
                assert pictures["clean"].shape == pictures["adversarial"].shape == (8, 1, 8, 8)


def test_memory_is_read_with_its_unit():
    assert parse_memory("2GB") == 2 * 10**9
    assert parse_memory(" 512 MiB") == 512 * 2**20
    assert make_config({"memory": "1.5kb"}).memory == 1500
    for bad in ("lots", "0GB", "-1GB", "2 TB", ""):
        with pytest.raises(ConfigError, match="such as 2GB"):
            make_config({"memory": bad})


def test_the_memory_budget_changes_no_file(checkpoint, tmp_path):
    folders = []
    for memory in (None, "1MB"):
        folder = tmp_path / str(memory)
        settings = {} if memory is None else {"memory": memory}
        trustsnn.audit(checkpoint, "digits", out=folder, eps=[0.1], samples=40, quiet=True, **settings)
        folders.append(folder)
    first, second = ((folder / "report.json").read_bytes() for folder in folders)
    assert first == second
