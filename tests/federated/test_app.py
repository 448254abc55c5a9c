"""The folder of a Flower app: what is in it, what Flower packs of it, and that its two apps are the federation of the simulation."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile

import pytest

pytest.importorskip("flwr")

from flwr.app import Context, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.clientapp import ClientApp
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.serverapp import ServerApp
from flwr.supercore.object_ref import load_app

from trustsnn.checkpoint import load_network, model_hash, save
from trustsnn.data import load
from trustsnn.errors import ConfigError, RunError
from trustsnn.federated.bundle import CONFIG, PACKAGE, write_app
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.deployment import RUN_CONFIG, lead
from trustsnn.federated.engine import inline_grid
from trustsnn.models import build

FILES = {
    "pyproject.toml",
    "README.md",
    *(f"{PACKAGE}/{name}" for name in ("__init__.py", "client_app.py", "server_app.py", CONFIG)),
}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def loaded(folder, name):
    """An app of the folder, as Flower's processes load it."""
    return load_app(
        tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"][name], Exception, folder
    )


class KilledError(BaseException):
    """The process ends here."""


class Dying:
    """A grid that ends the process when it is asked to train so many times."""

    def __init__(self, grid, rounds):
        self.grid, self.left = grid, rounds

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, timeout=None):
        if messages[0].metadata.message_type == "train":
            if not self.left:
                raise KilledError
            self.left -= 1
        return self.grid.send_and_receive(messages)


@pytest.fixture
def app(tmp_path, begun):
    config, _ = begun(rounds=3)
    write_app(tmp_path / "app", config, out=str(tmp_path / "out"), test=config.data)
    return tmp_path / "app"


def test_the_folder_holds_these_files_and_no_other(app):
    assert files(app) == FILES
    assert all(len((app / PACKAGE / name).read_text().splitlines()) < 10 for name in ("client_app.py", "server_app.py"))
    assert (app / PACKAGE / "__init__.py").read_text() == ""


def test_flower_takes_it_without_a_warning_and_installs_nothing(app):
    config, warnings = load_and_validate(app / "pyproject.toml")
    assert warnings == []
    assert config["project"]["dependencies"] == []
    assert config["tool"]["flwr"]["app"]["config"].keys() == RUN_CONFIG.keys()


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")
def test_flower_packs_these_files_and_no_other(app):
    (app / "keys").mkdir()
    (app / "keys" / "secret.json").write_text("{}")
    (app / "notes.yaml").write_text("a: 1")
    (app / PACKAGE / "weights.json").write_text("{}")
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))) as packed:
        assert {name for name in packed.namelist() if not name.startswith(".info/")} == FILES
        assert packed.read(f"{PACKAGE}/{CONFIG}") == (app / PACKAGE / CONFIG).read_bytes()


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")
def test_equal_settings_give_equal_bytes_and_are_read_back(app, begun, tmp_path):
    config, _ = begun(rounds=3)
    write_app(tmp_path / "again", config, out=str(tmp_path / "out"), test=config.data)
    assert build_fab_from_disk(app) == build_fab_from_disk(tmp_path / "again")
    assert FederatedConfig.read(app / PACKAGE / CONFIG) == config


def test_nothing_is_written_over(app, begun):
    with pytest.raises(ConfigError, match="Expected a new or an empty folder for the app"):
        write_app(app, begun()[0])


@pytest.mark.parametrize("out", ["a 'b' \"c\"", "c:\\fed\x7f", "ü/𝔘 {clients}\n"], ids=["quotes", "controls", "letters"])
def test_any_path_comes_back(tmp_path, begun, out):
    write_app(tmp_path / "app", begun()[0], out=out)
    assert tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]["out"] == out


def test_its_apps_are_the_federation_of_the_simulation(app, ended, begun, tmp_path, outcome):
    """Loaded as Flower loads them and run in this process: the same model and the same rows, bit for bit."""
    client, server = loaded(app, "clientapp"), loaded(app, "serverapp")
    assert isinstance(client, ClientApp)
    assert isinstance(server, ServerApp)
    settings = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    server(inline_grid(client, 3), Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=settings))
    config, start = begun(rounds=3)
    reference = ended(config, start, tmp_path / "simulation", test=load(config.data, "test"))
    rows = json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert [row["test"] for row in rows] == [row["test"] for row in reference.rounds.rows]
    assert model_hash(load_network(tmp_path / "out" / "model")) == model_hash(reference.network())


def test_a_killed_run_goes_on_after_the_last_finished_round(begun, ended, tmp_path):
    config, start = begun(rounds=3)
    settings = {**RUN_CONFIG, "out": str(tmp_path / "out")}
    grid = inline_grid(_client(config), 3)
    with pytest.raises(KilledError):
        lead(config, Dying(grid, 2), settings)
    assert len(json.loads((tmp_path / "out" / "rounds.json").read_text())) == 2
    assert not (tmp_path / "out" / "model").exists()
    saved = lead(config, Dying(grid, 1), settings)
    assert model_hash(load_network(saved)) == model_hash(ended(config, start, tmp_path / "whole").network())
    assert lead(config, None, settings) == saved, "a finished one asks nobody"


def test_the_superlink_answers_for_a_node_that_is_gone(begun, ended, tmp_path):
    """Its message comes from no node: before the rounds the server asks again, in a round it goes on without that client."""
    config, start = begun()
    calls = []

    class Gone:
        def __init__(self, grid):
            self.grid = grid

        def get_node_ids(self):
            return self.grid.get_node_ids()

        def send_and_receive(self, messages, timeout=None):
            calls.append({(message.metadata.message_type, message.metadata.dst_node_id) for message in messages})
            for message in messages:
                gone = message.metadata.dst_node_id == 3 and len(calls) in (1, 3)
                error = create_message_error_unavailable_res_message
                yield error(message.metadata, "node_unavail") if gone else next(iter(self.grid.send_and_receive([message])))

    rows = ended(config, start, tmp_path, grid=Gone).rounds.rows
    assert calls[1] == {("query", 3)}
    assert [(row["combined"], row["failed"]) for row in rows] == [(2, {"1": "it did not answer in time"}), (3, {})]


def test_a_start_from_a_checkpoint_is_named_and_checked(begun, tmp_path):
    config, _ = begun(rounds=1)
    start = build("mlp", input_shape=(1, 8, 8), classes=10, channels=0.1, steps=2, seed=7)
    start.layers[1].weight.data += 0.5
    config = config.model_copy(update={"architecture": start.architecture, "start": model_hash(start)})
    save(start, tmp_path / "start")
    settings = {**RUN_CONFIG, "out": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=r"got \w{16} from the seed\. .*'checkpoint=\"PATH\"'"):
        lead(config, None, settings)
    start.layers[1].weight.data += 0.5
    save(start, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"from the checkpoint .*other"):
        lead(config, None, {**settings, "checkpoint": str(tmp_path / "other")})
    assert not (tmp_path / "out").exists()
    assert lead(config, inline_grid(_client(config), 3), {**settings, "checkpoint": str(tmp_path / "start")}).is_dir()


def test_two_runs_do_not_write_one_folder(begun, tmp_path):
    config, settings = begun(rounds=1)[0], {**RUN_CONFIG, "out": str(tmp_path / "out")}

    class Meanwhile(Dying):
        def get_node_ids(self):
            with pytest.raises(RunError, match=r"Another run is writing .* flwr stop"):
                lead(config, None, settings)
            return super().get_node_ids()

    assert lead(config, Meanwhile(inline_grid(_client(config), 3), 1), settings) == lead(config, None, settings)


def test_a_folder_of_another_federation_is_left_alone(begun, tmp_path):
    settings = {**RUN_CONFIG, "out": str(tmp_path / "out")}
    one, other = begun(rounds=1)[0], begun(rounds=1, seed=1)[0]
    lead(one, inline_grid(_client(one), 3), settings)
    with pytest.raises(RunError, match="holds another federation"):
        lead(other, None, settings)


def test_samples_of_its_own_and_a_state_of_its_own(begun, few_digits, tmp_path):
    """Each node reads the file that its configuration names, and keeps what does not travel below its own folder, a folder a federation."""
    config, _ = begun(clients=2, statistics="local", model="conv", rounds=1)
    grid = inline_grid(_client(config), 2)
    own = {2: {"data": str(few_digits), "state": str(tmp_path / "zero")}, 3: {"state": str(tmp_path / "one")}}

    def configured(message, context):
        context.node_config = {**context.node_config, **own[context.node_id]}
        return _client(config)(message, context)

    lead(config, inline_grid(configured, 2), {**RUN_CONFIG, "out": str(tmp_path / "out")})
    (row,) = json.loads((tmp_path / "out" / "rounds.json").read_text())
    assert row["clients"]["0"]["num-examples"] == 2 * row["clients"]["1"]["num-examples"]
    assert [len([*(tmp_path / name / config.sha256[:16]).glob("round-*")]) for name in ("zero", "one")] == [1, 1]
    with pytest.raises(RunError, match="state=FOLDER"):
        lead(config, grid, {**RUN_CONFIG, "out": str(tmp_path / "without")})


def test_the_commands(cli, few_digits, tmp_path):
    written = cli(
        "federate", "app", "app", "--data", few_digits, "--clients", 2, "--model", "mlp", "--channels", 0.1, "--test", "none"
    )
    assert {line.partition("/")[2] for line in written.output.split()} == FILES == files(tmp_path / "app")
    assert tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]["test"] == ""
    config = FederatedConfig.read(tmp_path / "app" / PACKAGE / CONFIG)
    assert config.classes == tuple("0123456789")
    assert "2 clients that train mlp" in (tmp_path / "app" / "README.md").read_text()


def test_the_simulation_is_the_default_command(cli):
    whole, short = (cli("federate", *words, "--help").output for words in (["run"], ["--quiet"]))
    assert "--fail-under" in whole
    assert whole == short
    assert [name in cli("federate", "--help").output for name in ("run", "app", "certificates", "check")] == [True] * 4
    assert cli("federate", "--nonsense").exit_code == 2


def _client(config):
    from trustsnn.federated.apps import client_app

    return client_app(config)
