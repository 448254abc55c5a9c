"""The two apps of Flower on real devices, as the files of an app folder call them; see `trustsnn.federated.bundle` for that folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trustsnn.checkpoint import load_network, model_hash
from trustsnn.data import Dataset, splits
from trustsnn.errors import ConfigError
from trustsnn.federated.apps import client_app
from trustsnn.federated.client import Site, network
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.flower import flower
from trustsnn.federated.folders import aligned
from trustsnn.federated.foreign import build, is_foreign, save
from trustsnn.federated.server import Server
from trustsnn.files import alone, write_text
from trustsnn.models.network import SpikingNetwork

RUN_CONFIG: dict[str, str | float] = {"out": "federation", "checkpoint": "", "test": "", "round-timeout": 3600.0}
"""What `flwr run --run-config` may set, and what holds without it.

out: the server's folder for the rounds, the privacy ledger and the model, below the folder in which the SuperLink was started unless absolute.
checkpoint: the weights of round 0, for a federation that does not start from its own seed: a checkpoint folder, or for a module of one's own
    a safetensors file.
test: the data set, by name or path, on whose test split the server measures the global model after each round; without it nothing is measured.
round-timeout: seconds that a round waits for its clients.
"""


def client(path: Path, code: str | None = None) -> Any:
    """The ClientApp of the federation in the file `path`. It computes with one thread, unless OMP_NUM_THREADS says otherwise. `code`: see
    `trustsnn.federated.foreign`."""
    return client_app(FederatedConfig.read(path), threads=None if "OMP_NUM_THREADS" in os.environ else 1, code=code)


def server(path: Path, code: str | None = None) -> Any:
    """The ServerApp of the federation in the file `path`: see `lead`."""
    config, app = FederatedConfig.read(path), flower("serverapp").ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def _main(grid: Any, context: Any) -> None:
        lead(config, grid, {**RUN_CONFIG, **context.run_config}, code)

    return app


def lead(config: FederatedConfig, grid: Any, settings: Mapping[str, Any], code: str | None = None) -> Path:
    """Every round that is not yet in the server's folder; rounds.json there after each, and the model after the last.

    Args:
        settings: RUN_CONFIG with the values of this run.
        code: what makes the module, in a federation of one.

    Returns:
        Where the model is: a checkpoint folder, or the weights of a module.

    Raises:
        ConfigError: the weights of round 0 are not those that the federation was written for.
        RunError: another run is writing that folder, or it holds another federation.
    """
    out = Path(str(settings["out"])).expanduser().resolve()
    start = _start(config, str(settings["checkpoint"]), code)
    test = _test(config, str(settings["test"]), start.spec.steps)
    log = logging.getLogger("flwr")

    def told(row: dict[str, Any]) -> None:
        write_text(out / "rounds.json", json.dumps(leader.rounds.rows, indent=1, sort_keys=True) + "\n")
        right = f", {100 * row['test']['value']:.2f} % of the test samples right" if "test" in row else ""
        log.info("Round %d: %d of %d updates%s", row["round"], row["combined"], len(row["asked"]), right)
        for name, reason in {**row["failed"], **row["refused"]}.items():
            log.warning("Round %d goes on without client %s: %s", row["round"], name, reason)

    with alone(out, f"Another run is writing {out}. Wait for it, or end it with: flwr stop RUN"):
        leader = Server(config, start, out / "rounds", test=test, told=told, timeout=float(settings["round-timeout"]))
        log.info("Round %d of %d is done, in %s", leader.rounds.round, config.rounds, out)
        if leader.rounds.round < config.rounds:
            leader.run(grid)
        saved = save(leader.network(), out, {"recipe": "federated", "federation": config.sha256})
    log.info("The model is in %s", saved)
    return saved


def _start(config: FederatedConfig, checkpoint: str, code: str | None) -> SpikingNetwork:
    """The network of round 0: that of the seed or of a checkpoint."""
    start: Any
    if is_foreign(config.architecture):
        start = build(config.architecture, code, Path(checkpoint).expanduser() if checkpoint else None)
    else:
        start = load_network(Path(checkpoint).expanduser()) if checkpoint else network(config)
    if model_hash(start) != config.start:
        given = f"the checkpoint {checkpoint}" if checkpoint else "the seed"
        raise ConfigError(
            f"Expected the weights that this federation starts from, model hash {config.start[:16]}, got {model_hash(start)[:16]} from {given}. "
            "Name them on the server: flwr run --run-config 'checkpoint=\"PATH\"'"
        )
    return start  # type: ignore[no-any-return]


def _test(config: FederatedConfig, name: str, frames: int) -> Dataset | None:
    """The test split of a data set, labelled as the federation's classes are; None of none."""
    if not name:
        return None
    if name == config.data:
        return Site(config).test
    data = splits(name, frames=frames)["test"]
    return aligned(data, config.classes) if config.classes else data
