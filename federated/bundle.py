"""The folder of a federation's Flower app, which `flwr run` packs and Flower brings to the server and to every node."""

from __future__ import annotations

import json
from pathlib import Path

from trustsnn.errors import ConfigError
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.deployment import RUN_CONFIG
from trustsnn.federated.foreign import is_foreign
from trustsnn.files import write_text

PACKAGE, CONFIG = "trustsnn_federation", "federation.json"

_PYPROJECT = """\
[project]
name = "trustsnn-federation"
version = "1.0.0"
description = "{description}"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "trustsnn"
fab-include = ["README.md", "{package}/*.py", "{package}/{config}"]

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
{settings}
"""

_APP = '''\
"""{what}"""

from pathlib import Path

from trustsnn.federated.deployment import {kind}

app = {kind}(Path(__file__).with_name("{config}"){code})
'''

_README = """\
# {description}

The settings are in `{package}/{config}`. `flwr run` sends this folder, and nothing else, to the server and to every node. Each has trustsnn
installed, in one version, by `pip install 'trustsnn[federated]'`{module}. Its `docs/federated.md` has the same on one machine, command by
command, and says what is protected and what is not. On every machine, so that Flower calls nobody and installs nothing:

    export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1

1. **Certificates and node keys**, for tests and small set-ups, with the address by which nodes reach the server. A node gets `ca.pem` and its own
   `node-NUMBER.key`, over a channel that you trust:

       trustsnn federate certificates keys --hosts ADDRESS,localhost --nodes {clients}

2. **SuperLink**, on the server. Whoever reaches its port may submit code to the server and to all nodes. Leave it on 127.0.0.1, and put a proxy
   in front that lets nothing through but `/v1/fleet/`; `docs/federated.md` has one:

       flower-superlink --host 127.0.0.1 --port 8000 --enable-supernode-auth --database superlink.db \\
           --ssl-ca-certfile keys/ca.pem --ssl-certfile keys/server.pem --ssl-keyfile keys/server.key

3. **Registration**, on the server, of each node by `flwr supernode register keys/node-NUMBER.pub federation`, with these lines in
   `~/.flwr/config.toml`:

       [superlink.federation]
       address = "127.0.0.1:8000"
       root-certificates = "/PATH/TO/keys/ca.pem"

4. **SuperNodes**, one on each device, NUMBER from 0. `data` is the device's own folder or file of samples (without it, part NUMBER of the
   data set that the settings name), `state` a folder for what never leaves it:

       trustsnn federate check keys --server ADDRESS:PORT
       flower-supernode --superlink ADDRESS:PORT --root-certificates keys/ca.pem \\
           --auth-supernode-private-key keys/node-NUMBER.key \\
           --node-config 'partition-id=NUMBER data="/PATH/TO/DATA" state="/PATH/TO/STATE"'

5. **Run**, on the server: `flwr run . federation --stream`. The same command goes on after the last finished round. What a run may set is under
   `[tool.flwr.app.config]` in `pyproject.toml`: `flwr run . federation --run-config 'out="/srv/federation"'`.
"""


def write_app(folder: Path, config: FederatedConfig, *, out: str = "federation", test: str = "") -> list[Path]:
    """Write a federation as a Flower app: pyproject.toml, README.md and a package of two apps of a few lines and the settings.

    Args:
        folder: a new or an empty folder.
        out, test: see `trustsnn.federated.deployment.RUN_CONFIG`.

    Returns:
        The files.

    Raises:
        ConfigError: the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"Expected a new or an empty folder for the app, got {folder}. Choose another, or delete it.")
    name = config.architecture.get("name", "network")
    names = {
        "package": PACKAGE, "config": CONFIG, "clients": config.clients, "code": f', code="{name}"' if is_foreign(config.architecture) else "",
        "description": f"A federation of {config.clients} clients that train {name} for {config.rounds} rounds",
        "module": f", and has `{name.partition(':')[0]}` on its PYTHONPATH" if is_foreign(config.architecture) else "",
        "settings": "\n".join(f"{key} = {_toml(value)}" for key, value in {**RUN_CONFIG, "out": out, "test": test}.items()),
    }  # fmt: skip
    texts = {
        "pyproject.toml": _PYPROJECT.format(**names),
        "README.md": _README.format(**names),
        f"{PACKAGE}/__init__.py": "",
        f"{PACKAGE}/client_app.py": _APP.format(what="What a node runs.", kind="client", **names),
        f"{PACKAGE}/server_app.py": _APP.format(what="What the server runs.", kind="server", **names),
    }
    for path, text in texts.items():
        write_text(folder / path, text)
    config.write(folder / PACKAGE / CONFIG)
    return [folder / path for path in (*texts, f"{PACKAGE}/{CONFIG}")]


def _toml(value: str | float) -> str:
    """A basic string or a number: TOML's are as JSON's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
