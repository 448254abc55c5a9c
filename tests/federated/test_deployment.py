"""A federation of real processes on 127.0.0.1, with TLS and node keys, by the commands of docs/federated.md, and what is killed on the way."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("flwr")


import trustsnn
from trustsnn.checkpoint import load_network, model_hash
from trustsnn.errors import ConfigError
from trustsnn.federated.bundle import CONFIG, PACKAGE
from trustsnn.federated.certificates import handshake, make
from trustsnn.federated.client import network
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.flower import OFFLINE

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "docs" / "federated.md").read_text().partition("## Real devices, on one machine\n")[2].partition("\n## ")[0]
LINES = [line for block in re.findall(r"^```sh\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
(TOML,) = re.findall(r"^```toml\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
PORTS = ("8000", "9094", "9095", "9096")
LONG = 300  # seconds: two cores may be shared with everything else
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes by /proc")


def lines(program: str) -> list[str]:
    """The commands of the walk-through that begin with these words, but for the variables in front."""
    found = [line for line in LINES if re.sub(r"^(\w+=\S+ )*", "", line).startswith(f"{program} ")]
    assert found, f"docs/federated.md has no {program}"
    return found


class Deployment:
    """The processes of a federation below a folder. Each is ended by its own number, whatever becomes of the test."""

    def __init__(self, place: Path, cli) -> None:
        self.place, self.cli, self.running = place, cli, dict[str, subprocess.Popen[bytes]]()
        with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        self.ports = {port: str(each.getsockname()[1]) for port, each in zip(PORTS, with_ports, strict=True)}
        for each in with_ports:
            each.close()
        package = Path(trustsnn.__file__).parent.parent
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
        self.environment = {
            **inherited, **dict(word.split("=") for word in shlex.split(lines("export")[0])[1:]), "OMP_WAIT_POLICY": "PASSIVE",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]), "PWD": str(place),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])),
            "FLWR_HOME": str(place / "home" / "other"), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        }  # fmt: skip
        for program in ("flower-superlink", "flower-supernode", "flower-superexec", "flwr"):
            assert shutil.which(program, path=self.environment["PATH"]), f"{program} is not beside {sys.executable}"
        (place / "home" / "operator").mkdir(parents=True)
        (place / "home" / "operator" / "config.toml").write_text(self.here(TOML))

    def here(self, text: str) -> str:
        """With the ports and the folder of this test."""
        for port, own in self.ports.items():
            text = re.sub(rf"\b{port}\b", own, text)
        return text.replace("$PWD", str(self.place))

    def words(self, line: str) -> tuple[list[str], dict[str, str]]:
        words, environment = shlex.split(self.here(line)), dict(self.environment)
        while "=" in words[0]:
            name, _, environment[name] = words.pop(0).partition("=")
        return words, environment

    def call(self, line: str) -> str:
        """What a command prints that ends by itself, and well."""
        words, environment = self.words(line)
        if words[0] == "trustsnn":  # in this process, which has torch already
            return self.cli(*words[1:]).output
        done = subprocess.run(words, cwd=self.place, env=environment, capture_output=True, text=True, timeout=LONG)
        assert done.returncode == 0, f"{line}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def start(self, name: str, line: str) -> None:
        """A process that goes on; what it prints goes to NAME.log, behind what one of that name printed before."""
        words, environment = self.words(line)
        if "--port" in words:
            free(int(words[words.index("--port") + 1]))
        with open(self.place / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                words, cwd=self.place, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def begin(self) -> None:
        """The SuperLink, until it answers."""
        (line,) = lines("flower-superlink")
        self.start("superlink", line)
        self.until("the SuperLink answers", lambda: self._answers() or self.running["superlink"].poll() is not None)
        assert self.running["superlink"].poll() is None, self.log("superlink")

    def _answers(self) -> bool:
        with suppress(ConfigError):
            return bool(handshake(self.place / "keys" / "ca.pem", self.here("127.0.0.1:8000")))
        return False

    def post(self, path: str) -> int:
        """The status with which the SuperLink answers an empty request of somebody without a key."""
        url = self.here(f"https://127.0.0.1:8000/v1/{path}")
        request = urllib.request.Request(url, data=b"", method="POST", headers={"content-type": "application/protobuf"})
        context = ssl.create_default_context(cafile=str(self.place / "keys" / "ca.pem"))
        try:
            with urllib.request.urlopen(request, context=context, timeout=LONG) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def ended(self, name: str) -> int:
        """The exit code of a process that ends by itself."""
        return self.running.pop(name).wait(timeout=LONG)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def log(self, name: str) -> str:
        path = self.place / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, what: str, condition) -> None:
        """Waits; the test fails with the ends of all logs where it does not come true."""
        ends = time.monotonic() + LONG
        while not condition():
            if time.monotonic() > ends:
                tails = [f"--- {path.name}\n{self.log(path.stem)[-1500:]}" for path in sorted(self.place.glob("*.log"))]
                pytest.fail("\n".join([f"Not within {LONG} s: {what}", *tails]))
            time.sleep(0.2)

    def left(self) -> list[int]:
        """Processes that Flower began for this deployment and that live: by the FLWR_HOME that they were born with."""
        mark, found = f"FLWR_HOME={self.place}/".encode(), []
        for each in Path("/proc").iterdir():
            with suppress(OSError):  # it has ended, or is not ours to look at
                if each.name.isdecimal() and mark in (each / "environ").read_bytes():
                    found.append(int(each.name))
        return found

    def close(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
            process.wait()
        ends = time.monotonic() + 10
        while (left := self.left()) and time.monotonic() < ends:
            time.sleep(0.2)
        for each in left:  # Flower leaves a ClientApp waiting where its SuperLink died while it handed out a message
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.until("no process is left", lambda: not self.left())

    def config(self) -> FederatedConfig:
        return FederatedConfig.read(self.place / "app" / PACKAGE / CONFIG)

    def rows(self) -> list[dict]:
        return json.loads((self.place / "federation" / "rounds.json").read_text())


def free(port: int) -> None:
    """Fails the test with one message where somebody listens on that port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            pytest.fail(f"Port {port} of 127.0.0.1 is taken ({error.strerror}): end what listens there, or run the test again.")


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread):
    """As the nodes compute, to which the model of a simulation in this process is held bit for bit."""


@pytest.fixture
def deployment(tmp_path, cli):
    deployment = Deployment(tmp_path, cli)
    try:
        yield deployment
    finally:
        deployment.close()


def test_the_walk_through_is_offline_and_local():
    exported = dict(word.split("=") for word in shlex.split(lines("export")[0])[1:])
    assert {name: value for name, value in OFFLINE.items() if name.startswith("FLWR_")}.items() <= exported.items()
    assert exported["OMP_NUM_THREADS"] == "1"
    assert len(lines("flower-supernode")) == len(lines("flwr supernode register")) == 3
    addresses = re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", "\n".join([*LINES, TOML]))
    assert set(addresses) == {"127.0.0.1"}
    assert not re.search(r"--insecure|--allow-runtime", "\n".join(LINES))


def test_a_taken_port_is_one_message():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(pytest.fail.Exception, match="is taken"):
        free(taken.getsockname()[1])


def test_a_node_trains_and_a_stranger_is_refused(deployment, ended, tmp_path_factory):
    (app,), (certificates,) = lines("trustsnn federate app"), lines("trustsnn federate certificates")
    deployment.call(app.replace("--clients 3 --rounds 4", "--clients 1 --rounds 1"))
    deployment.call(certificates)
    deployment.begin()
    for line in lines("trustsnn federate check"):
        deployment.call(line)
    deployment.call(lines("flwr supernode register")[0])
    deployment.start("stranger", lines("flower-supernode")[1])
    deployment.start("node-0", lines("flower-supernode")[0])
    printed = deployment.call(*lines("flwr run"))
    assert "Round 1: 1 of 1 updates" in printed
    assert deployment.ended("stranger") == 1
    assert "Failed to activate SuperNode" in deployment.log("stranger")
    assert deployment.running["node-0"].poll() is None, deployment.log("node-0")
    for path in (
        "control/list-runs",
        "runtime/acquire-task",
    ):  # docs/federated.md warns of this: a Flower that asks who we are changes it
        assert deployment.post(path) == 200
    assert deployment.post("fleet/pull-messages") == 401
    (row,) = deployment.rows()
    assert (row["asked"], row["failed"], row["test"]["count"]) == ([0], {}, 360)
    config = deployment.config()
    reference = ended(config, network(config), tmp_path_factory.mktemp("simulation"))
    assert model_hash(load_network(deployment.place / "federation" / "model")) == model_hash(reference.network())


def test_certificates_that_do_not_hold_are_one_message_of_flower_s_and_of_ours(deployment):
    """A server whose certificate has expired, and one of another CA: each handshake ends before anything is said."""
    folder = deployment.place
    make(folder / "keys", ["127.0.0.1"], 2)
    make(folder / "other", ["127.0.0.1"], 0)
    make(folder / "old", ["127.0.0.1"], 2, now=datetime.now(UTC) - timedelta(days=400))
    expired, stranger = lines("flower-supernode")[:2]
    with _Shown(folder / "old") as old, _Shown(folder / "other") as other:
        deployment.start("expired", expired.replace("keys/", "old/").replace("127.0.0.1:8000", old))
        deployment.start("stranger", stranger.replace("127.0.0.1:8000", other))
        for name, keys, address, why in (("expired", "old", old, "expired"), ("stranger", "keys", other, "issuer|self-signed")):
            assert deployment.ended(name) == 1
            assert re.search(rf"certificate verify failed: .*({why})", deployment.log(name)), deployment.log(name)
            with pytest.raises(ConfigError, match=f"does not vouch .*({why})"):
                handshake(folder / keys / "ca.pem", address)


class _Shown:
    """A TLS server that shows the certificate of a folder to whoever asks, and says nothing."""

    def __init__(self, folder: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self) -> str:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.thread.start()
        return f"127.0.0.1:{self.listening.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listening.close()

    def _serve(self) -> None:
        with suppress(OSError):  # the end
            while True:
                plain = self.listening.accept()[0]
                with plain, suppress(OSError):  # they do not trust us, as it should be
                    self.context.wrap_socket(plain, server_side=True).close()


@pytest.mark.slow
def test_a_node_and_the_superlink_are_killed_and_the_run_goes_on(deployment, ended, tmp_path_factory):
    """The walk-through as it stands. Node 2 dies while it trains in round 2, the SuperLink in round 3."""
    for line in [*lines("trustsnn federate app"), *lines("trustsnn federate certificates")]:
        deployment.call(line)
    deployment.begin()
    for line in [*lines("trustsnn federate check"), *lines("flwr supernode register")]:
        deployment.call(line)
    for number, line in enumerate(lines("flower-supernode")):
        deployment.start(f"node-{number}", line)
    (run,) = lines("flwr run")
    deployment.start("run", run)

    def trains(node: str, times: int) -> None:
        taken = r"Receiving: train message.*\n.*Received successfully"
        deployment.until(f"{node} trains for the {times}th time", lambda: len(re.findall(taken, deployment.log(node))) >= times)

    trains("node-2", 2)
    deployment.kill("node-2")
    deployment.until("round 2 ends without it", lambda: "Round 2: 2 of 3 updates" in deployment.log("run"))
    deployment.start("node-2", lines("flower-supernode")[2])
    trains("node-0", 3)
    deployment.kill("superlink")
    assert deployment.ended("run") == 1
    assert "Connection to the SuperLink is unavailable" in deployment.log("run")
    assert len(deployment.rows()) == 2
    deployment.begin()
    printed = deployment.call(run)
    assert "Round 2 of 4 is done" in printed
    rows = deployment.rows()
    assert [row["combined"] for row in rows] == [3, 2, 3, 3]
    assert [row["failed"].keys() for row in rows] == [set(), {"2"}, set(), set()]

    def dying(client):
        def answer(message, context):
            if (
                message.metadata.message_type == "train"
                and message.content["config"]["round"] == 2
                and context.node_config["partition-id"] == 2
            ):
                raise RuntimeError("it dies")
            return client(message, context)

        return answer

    config = deployment.config()
    reference = ended(config, network(config), tmp_path_factory.mktemp("simulation"), app=dying)
    assert model_hash(load_network(deployment.place / "federation" / "model")) == model_hash(reference.network())


@pytest.mark.slow
def test_secrets_and_statistics_live_through_the_processes_of_a_node(deployment, ended, tmp_path_factory):
    """Secure aggregation keeps a client's secrets between four messages, each a process of its own; statistics wait on the node's disk."""
    (app,) = lines("trustsnn federate app")
    deployment.call(app.replace("--rounds 4", "--rounds 2 --secure --statistics local"))
    deployment.call(*lines("trustsnn federate certificates"))
    deployment.begin()
    for line in lines("flwr supernode register"):
        deployment.call(line)
    for number, line in enumerate(lines("flower-supernode")):
        deployment.start(f"node-{number}", line)
    deployment.call(*lines("flwr run"))
    assert [(row["combined"], row["failed"]) for row in deployment.rows()] == [(3, {}), (3, {})]
    config = deployment.config()
    for number in range(3):
        kept = deployment.place / f"state-{number}" / config.sha256[:16]
        assert sorted(path.name for path in kept.iterdir()) == ["round-00001.safetensors", "round-00002.safetensors"]
    reference = ended(config, network(config), tmp_path_factory.mktemp("simulation"))
    assert model_hash(load_network(deployment.place / "federation" / "model")) == model_hash(reference.network())
