"""A federation of a user's own module: trained, killed, audited and packed as any other, and nobody's code runs because a file names it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("flwr")

import safetensors.torch
import torch
from flwr.app import Context, RecordDict
from flwr.supercore.object_ref import load_app

from tests.federated import own_models
from trustsnn.checkpoint import model_hash
from trustsnn.data import load
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.federated import foreign
from trustsnn.federated.bundle import PACKAGE, write_app
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.deployment import RUN_CONFIG, lead
from trustsnn.federated.engine import inline_grid
from trustsnn.runners.federated import Running, federate
from trustsnn.runners.federated_audit import Plan, audit
from trustsnn.training import accuracy

CODE = "tests.federated.own_models:net"


def begun(data="digits", code=CODE, **settings):
    architecture = foreign.architecture_of(code, (1, 8, 8), 0)
    start = foreign.build(architecture, code)
    plain = {"data": str(data), "clients": 3, "rounds": 2, "partition": "iid", "local": {"batch_size": 32}}
    return FederatedConfig(architecture=architecture, start=model_hash(start), **{**plain, **settings}), start


def run(folder, config, start, **more):
    return federate(config, start, folder, Running("inline", code=CODE, keep=True), **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A federation of digits that has ended: its folder and its record. Do not change it."""
    folder = tmp_path_factory.mktemp("foreign") / "run"
    return folder, run(folder, *begun(rounds=6, local={"batch_size": 16, "epochs": 2})).record


def test_it_learns_and_its_weights_fit_the_module(trained):
    folder, record = trained
    figure = record["rounds"][-1]["test"]
    assert figure["value"] > 0.6
    module = own_models.Net()
    module.load_state_dict(safetensors.torch.load((folder / foreign.WEIGHTS).read_bytes()))
    assert accuracy(own_models.trustsnn.wrap(module, time_steps=3), load("digits", "test"))["successes"] == figure["successes"]
    assert record["rounds"][0]["clients"]["0"]["joules"] > 0
    assert (folder / "federated.html").exists()


def test_a_killed_run_ends_as_one_that_is_not(trained, tmp_path):
    class KilledError(BaseException):
        pass

    def killed(row):
        if row["round"] == 3:
            raise KilledError

    config = begun(rounds=6, local={"batch_size": 16, "epochs": 2})
    with pytest.raises(KilledError):
        run(tmp_path, *config, told=killed)
    assert run(tmp_path, *config).record == trained[1]
    assert (tmp_path / foreign.WEIGHTS).read_bytes() == (trained[0] / foreign.WEIGHTS).read_bytes()


def test_it_is_audited_where_its_code_is_named(trained, tmp_path):
    folder, _ = trained
    plan = Plan(samples=100, every=6, images=1, iterations=5)
    with pytest.raises(ConfigError, match=f"nothing was named here.*Name it with --model {CODE}"):
        audit(folder, tmp_path, plan)
    record = audit(folder, tmp_path, plan, code=CODE).record
    assert [each["round"] for each in record["rounds"]] == [0, 6]
    assert record["inversion"]["reason"] == "a module of one's own is not inverted"
    assert "a module of one&#x27;s own is not inverted" in (tmp_path / "audit.html").read_text().replace("&#39;", "&#x27;")


@pytest.fixture
def unloaded(monkeypatch):
    """What is imported from the folder of an app, here or by a test before, is forgotten."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.mark.usefixtures("unloaded")
def test_the_app_names_it_in_its_code_and_trains_the_same(tmp_path, few_digits):
    config, start = begun(few_digits)
    write_app(tmp_path / "app", config)
    assert "has `tests.federated.own_models` on its PYTHONPATH" in (tmp_path / "app" / "README.md").read_text()
    client, server = (load_app(f"{PACKAGE}.{name}:app", Exception, tmp_path / "app") for name in ("client_app", "server_app"))
    settings = {**RUN_CONFIG, "out": str(tmp_path / "out"), "test": str(few_digits)}
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=settings)
    server(inline_grid(client, config.clients), context)
    run(tmp_path / "simulated", config, start)
    assert (tmp_path / "out" / foreign.WEIGHTS).read_bytes() == (tmp_path / "simulated" / foreign.WEIGHTS).read_bytes()


def test_it_starts_from_weights_in_a_file(tmp_path, few_digits):
    torch.manual_seed(5)
    path = tmp_path / "net.safetensors"
    path.write_bytes(safetensors.torch.save(own_models.Net().state_dict()))
    architecture = foreign.architecture_of(CODE, (1, 8, 8), 0)
    first, second = foreign.build(architecture, CODE), foreign.build(architecture, CODE, path)
    assert model_hash(first) == model_hash(foreign.build(architecture, CODE)) != model_hash(second)
    config, _ = begun(few_digits)
    config = config.model_copy(update={"start": model_hash(second)})
    settings = {"out": str(tmp_path / "out"), "checkpoint": "", "test": "", "round-timeout": 60.0}
    with pytest.raises(ConfigError, match="Expected the weights that this federation starts from"):
        lead(config, None, settings, CODE)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:100])
    with pytest.raises(UnsafeArtifactError, match="not a whole safetensors"):
        foreign.build(architecture, CODE, tmp_path / "cut")
    with pytest.raises(ConfigError, match="Could not read the weights"):
        foreign.build(architecture, CODE, tmp_path / "none")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("tests.federated.own_models:bare", "Expected tests.federated.own_models:bare to return trustsnn.wrap"),
        ("tests.federated.own_models:broken", "raised RuntimeError: no weights"),
        ("tests.federated.own_models:none", "has no 'none'"),
        ("tests.federated.nowhere:net", "Could not import"),
    ],
)
def test_what_makes_no_wrapped_module_is_one_message(code, message):
    with pytest.raises(ConfigError, match=message):
        foreign.architecture_of(code, (1, 8, 8), 0)


def test_settings_alone_make_no_code_run(tmp_path, monkeypatch, few_digits):
    called = []
    monkeypatch.setattr(own_models, "broken", lambda: called.append(1))
    config, _ = begun(few_digits)
    path = tmp_path / "federation.json"
    config.write(path)
    told = json.loads(path.read_text())
    told["architecture"]["name"] = "tests.federated.own_models:broken"
    path.write_text(json.dumps(told))
    hostile = FederatedConfig.read(path)
    for code in (None, CODE):
        with pytest.raises(ConfigError, match="settings alone make nobody's code run"):
            foreign.build(hostile.architecture, code)
    assert called == []


def test_other_time_steps_than_the_federation_s_are_refused():
    architecture = foreign.architecture_of(CODE, (1, 8, 8), 0)
    other = {**architecture, "name": "tests.federated.own_models:slower"}
    with pytest.raises(ConfigError, match=r"Expected 3 time steps of the module .* got 4"):
        foreign.build(other, "tests.federated.own_models:slower")


@pytest.mark.parametrize(
    "settings",
    [{"fleet": {"twins": "loihi"}}, {"fleet": {"steps": 2}}, {"privacy": {"unit": "sample", "sigma": 1.0, "accountant": "rdp"}}],
)
def test_what_takes_a_bundled_network_is_refused_before_a_round(tmp_path, few_digits, settings):
    config, start = begun(few_digits, **settings)
    with pytest.raises(ConfigError, match=r"Expected a bundled network for .*, got the module of tests.federated.own_models:net"):
        run(tmp_path / "run", config, start)
    assert not (tmp_path / "run" / "federation.json").exists()


def test_equal_dropout_whoever_was_asked_before(few_digits, tmp_path):
    """A client's draws depend on the seed, the round and the client alone."""
    config, start = begun(few_digits, rounds=1)
    whole = run(tmp_path / "one", config, start)
    torch.rand(1000)
    again = run(tmp_path / "two", config, start)
    assert whole.record == again.record
    assert np.isfinite(whole.record["rounds"][0]["clients"]["0"]["loss"])
