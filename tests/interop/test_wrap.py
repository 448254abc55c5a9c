"""Modules of other frameworks under `trustsnn.wrap`: how they take time, their state, their spikes, and an audit of them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import trustsnn
from trustsnn.blocks import frozen, observe
from trustsnn.checkpoint import model_hash
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.neurons import STBP, Surrogate
from trustsnn.runners.inspect import describe_model

STEPS = 4


def test_logits_are_the_modules_own_from_the_reset_state(case, wrapped):
    expected = case.own(case.x)
    assert 0 < expected.mean() < 1
    model = wrapped()
    for _ in range(2):
        assert torch.equal(model(case.x), sum(expected.unbind(0)) / STEPS)
    assert model.takes == case.takes
    assert torch.equal(wrapped(over="last")(case.x), expected[-1])
    assert torch.equal(wrapped(takes=case.takes, over="max")(case.x), expected.amax(0))


def test_event_frames_are_the_steps(case):
    frames = torch.zeros(6, STEPS, 1, 4, 4)
    frames[:, -1] = 0.5
    if case.takes == "sample":
        pytest.skip("the module takes its frames by itself")
    last = trustsnn.wrap(case.module, domain="events-binary", time_steps=STEPS, classes=3, over="last")
    assert last(frames).sum() > last(frames.flip(1)).sum()
    model = trustsnn.wrap(case.module, domain="events-binary", time_steps=STEPS, classes=3)
    same = frames[:, :1].expand(-1, STEPS, -1, -1, -1)
    assert torch.equal(model(same), trustsnn.wrap(case.module, time_steps=STEPS, classes=3)(frames[:, 0]))


def test_spikes_are_counted_by_layer(case, wrapped):
    model = wrapped()
    trace = model.unroll(case.x)
    assert list(trace.spike_counts) == [neuron.name for neuron in model.foreign_neurons]
    assert torch.equal(trace.spike_counts[model.foreign_neurons[-1].name], case.own(case.x).sum(0))
    assert trace.steps == STEPS
    rows = wrapped(over="max").unroll(case.x)
    assert (len(rows.logits), rows.steps) == (1, STEPS)
    with frozen(model):
        seen = observe(model, case.x)
    assert torch.equal(seen.logits, model(case.x))
    assert all(0 < fired < places and places % STEPS == 0 for fired, places in seen.spikes.values())
    lines = "\n".join(describe_model(model, data=(case.x, torch.tensor([0, 1, 2, 0, 1, 2]))))
    assert f"spiking layers: {len(model.foreign_neurons)}" in lines
    assert lines.count("spike rate") == len(model.foreign_neurons)


def test_a_forward_leaves_the_model_as_it_was(case, wrapped):
    model = wrapped()
    before = model_hash(model)
    first = model(case.x)
    assert model_hash(model) == before
    other = copy.deepcopy(model)
    copies = list(zip(other.foreign_neurons, model.foreign_neurons, strict=True))
    with STBP(Surrogate("ste")).applied(other), torch.no_grad():
        other.module[1].weight.mul_(2) if isinstance(other.module, nn.Sequential) else other.module.fc.weight.mul_(2)
        assert not torch.equal(other(case.x), first)
        assert all(neuron.estimator.describe() == {"name": "own"} for neuron in model.foreign_neurons)
    assert torch.equal(model(case.x), first)
    assert torch.equal(other(case.x), other(case.x))
    assert not any(set(vars(neuron.layer)) - set(vars(same.layer)) for neuron, same in copies)


QUICK = {"attacks": [{"attack": "fgsm"}], "eps": ["0.05"], "samples": 64, "quiet": True}


def test_a_module_that_forgets_to_reset_is_reported_and_audited_rightly(digits_test, tmp_path, fakes):
    run = trustsnn.audit(trustsnn.wrap(fakes.Forgetful(fakes.Leaky), time_steps=STEPS), "digits", out=tmp_path / "a", **QUICK)
    assert (run.verdict, run.exit_code) == ("pass", 0)
    assert [finding["type"] for finding in run.findings] == ["state-kept"]
    assert "called twice on the same samples without a reset" in run.findings[0]["message"]
    assert "state-kept" in (tmp_path / "a" / "report.html").read_text()
    remembers = fakes.Forgetful(fakes.Leaky)
    judged = digits_test.take(64, 0)
    x, y = (torch.from_numpy(values) for values in judged.batch(range(64)))
    with torch.no_grad():
        correct = 0
        for image, label in zip(x, y, strict=True):
            remembers.net[2].reset_mem()
            correct += int(remembers(image[None]).mean(0).argmax() == label)
    assert run.summary["clean_accuracy"]["successes"] == correct


def test_a_state_that_is_not_known_is_named_and_casts_doubt(tmp_path, fakes):
    run = trustsnn.audit(trustsnn.wrap(fakes.Forgetful(fakes.Private), time_steps=STEPS), "digits", out=tmp_path / "a", **QUICK)
    assert (run.verdict, run.exit_code) == ("inconclusive", 3)
    (finding,) = [finding for finding in run.findings if finding["type"] == "contract-repeat"]
    assert "A forward changes net.2.membrane" in finding["message"]

    def reset(module):
        module.net[2].membrane = 0.0

    mended = trustsnn.wrap(fakes.Forgetful(fakes.Private), time_steps=STEPS, reset=reset)
    run = trustsnn.audit(mended, "digits", out=tmp_path / "b", **QUICK)
    assert (run.verdict, [finding["type"] for finding in run.findings]) == ("pass", ["state-kept"])


def test_states_of_a_framework_are_not_named(fakes):
    model = trustsnn.wrap(nn.Sequential(fakes.Forgetful(fakes.Private), fakes.Leaky()), time_steps=STEPS, takes="sample")
    assert model.left_behind(torch.rand(2, 1, 8, 8)) == ["0.net.2.membrane"]


def test_layers_that_fire_in_another_way_are_named(fakes):
    model = trustsnn.wrap(nn.Sequential(nn.Flatten(), nn.Linear(16, 3), fakes.StateLeaky()), time_steps=1)
    assert (model.foreign_neurons, model.own_surrogate) == ((), ("module.2",))
    (note,) = model.notes(torch.rand(2, 1, 4, 4))
    assert (note["type"], note["doubt"]) == ("surrogate-kept", False)
    assert "module.2" in note["message"]


def test_what_is_ambiguous_or_wrong_is_one_message(case, wrapped, fakes):
    if case.takes == "sample":
        with pytest.raises(ModelContractError, match=r"\(\[4, 2, 3\], \[4, 2, 3\]\), and which .* output=0"):
            trustsnn.wrap(fakes.Looped(both=True), time_steps=STEPS)(case.x)
        both = trustsnn.wrap(fakes.Looped(both=True), time_steps=STEPS, output=1)
        assert both(case.x).shape == (6, 3)
        with pytest.raises(ModelContractError, match=r"Pass time_steps .* or takes= .* sample: module\.cell ran 4 steps;"):
            trustsnn.wrap(case.module, time_steps=7)(case.x)
    with pytest.raises(ModelContractError, match="a tensor as output 5"):
        trustsnn.wrap(fakes.Looped(both=True), time_steps=STEPS, output=5)(case.x)
    for settings in ({"takes": "all"}, {"over": "median"}):
        with pytest.raises(ConfigError, match=f"Expected {next(iter(settings))} as one of"):
            wrapped(**settings)


def test_no_framework_is_imported():
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in ("snntorch", "spikingjelly", "norse", "sinabs"), name
sys.meta_path.insert(0, Refuse())
import torch, trustsnn
trustsnn.wrap(torch.nn.Linear(4, 3), time_steps=1)(torch.rand(2, 4))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(trustsnn.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
