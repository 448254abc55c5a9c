"""Federations small enough to be run many times: 120 digits, a small network, clients one after the other in this process."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory, digits_train, digits_test):
    """120 digits to train on and 60 to test on, as a file."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    (x, y), (x_test, y_test) = digits_train.batch(np.arange(120)), digits_test.batch(np.arange(60))
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test, classes=np.array(digits_train.classes))
    return path


@pytest.fixture(scope="session")
def begun(few_digits):
    """A function that makes a federation: its settings, which may be told otherwise, and the network that it starts from."""
    from trustsnn.checkpoint import model_hash
    from trustsnn.federated.config import FederatedConfig
    from trustsnn.models import build

    def make(*, norm="batch", model="mlp", **settings):
        start = build(model, input_shape=(1, 8, 8), classes=10, channels=0.1, steps=2, norm=norm)
        plain = {"data": str(few_digits), "clients": 3, "rounds": 2, "partition": "iid", "local": {"batch_size": 16}}
        return FederatedConfig(architecture=start.architecture, start=model_hash(start), **{**plain, **settings}), start

    return make


@pytest.fixture(scope="session")
def ended():
    """A function that runs a federation to its end, or to where something is raised: its server. `grid` and `app` wrap those of the run."""
    from trustsnn.federated.apps import client_app
    from trustsnn.federated.engine import inline_grid
    from trustsnn.federated.server import Server

    def run(config, start, folder, *, grid=lambda grid: grid, app=lambda app: app, **more):
        server = Server(config, start, folder / "rounds", **more)
        server.run(grid(inline_grid(app(client_app(config, kept=folder / "clients")), config.clients)))
        return server

    return run


@pytest.fixture(scope="session")
def outcome():
    """A function of a server: what came of it, without the seconds, to compare: bytes of the tensors, and the rows."""

    def of(server):
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in server.rounds.rows]
        for row in rows:
            row["clients"] = {
                client: {k: v for k, v in told.items() if k != "seconds"} for client, told in row["clients"].items()
            }
        return {name: (each.dtype.str, each.shape, each.tobytes()) for name, each in server.rounds.arrays.items()}, rows

    return of
