"""Where the clients of a simulation run: in processes of Ray, or one after the other in this one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from trustsnn.errors import ConfigError
from trustsnn.federated.flower import flower

ENGINES = {"ray": "clients in processes of Ray, several at a time", "inline": "one client after the other in this process"}


_ASKED_AT_ONCE = "Clients in this process are asked by send_and_receive alone."


def simulate(engine: str, client: Any, clients: int, lead: Callable[[Any], object], *, workers: int = 2) -> None:
    """Run Flower's ClientApp `client` on that many nodes while `lead` has the grid; what `lead` raises is raised here.

    `workers` is the number of processes of Ray.
    """
    check_engine(engine)
    if engine == "inline":
        lead(inline_grid(client, clients))
    else:
        _on_ray(client, clients, lead, workers)


def check_engine(engine: str) -> None:
    """ConfigError for one that there is not."""
    if engine not in ENGINES:
        raise ConfigError(f"Expected an engine of {', '.join(ENGINES)}, got {engine!r}.")


def inline_grid(client: Any, clients: int) -> Any:
    """A grid of Flower whose nodes answer one after the other in this process, in the order in which they are asked."""
    app, task = flower("app"), flower("supercore.task_identity").TaskIdentity
    task.task_id, task.run_id, task.node_id = 1, 1, 1  # messages name the run that they are made in

    class Inline(flower("serverapp").Grid):  # type: ignore[misc]
        def __init__(self) -> None:
            self.states = {node: app.RecordDict() for node in range(2, clients + 2)}

        def get_node_ids(self) -> Iterable[int]:
            return list(self.states)

        def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Iterable[Any]:
            return [self._answer(message) for message in messages]

        def _answer(self, message: Any) -> Any:
            node = message.metadata.dst_node_id
            config = {"partition-id": node - 2, "num-partitions": clients}
            context = app.Context(run_id=1, node_id=node, node_config=config, state=self.states[node], run_config={})
            try:
                return client(message, context)
            except Exception as error:  # noqa: BLE001
                # as on a real node: the server learns that it failed
                return app.Message(app.Error(code=0, reason=f"{type(error).__name__}: {error}"), reply_to=message)

        def set_run(self, run: Any) -> None:
            raise RuntimeError(_ASKED_AT_ONCE)

        @property
        def run(self) -> Any:
            raise RuntimeError(_ASKED_AT_ONCE)

        def create_message(
            self, content: Any, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
        ) -> Any:
            return app.Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

        def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
            raise RuntimeError(_ASKED_AT_ONCE)

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
            raise RuntimeError(_ASKED_AT_ONCE)

    return Inline()


def _on_ray(client: Any, clients: int, lead: Callable[[Any], object], workers: int) -> None:
    from trustsnn.federated.apps import server_app

    failed: list[BaseException] = []

    def led(grid: Any) -> None:
        try:
            lead(grid)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": workers, "include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flower("simulation").run_simulation(server_app(led), client, clients, backend_config=backend)
    if failed:
        raise failed[0]
