"""The two apps of Flower, the same in a simulation and on real devices: clients that train, a server that leads the rounds."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import Arrays
from trustsnn.federated.client import Site, judge, work
from trustsnn.federated.coding import parse as compression
from trustsnn.federated.compression import compress
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.flower import flower
from trustsnn.federated.poison import poisoned
from trustsnn.federated.privacy import clipped
from trustsnn.federated.rounds import keep_own, own_before
from trustsnn.federated.summing import STAGES, answer
from trustsnn.keys import Key
from trustsnn.rng import stream

SECURE = "secure"
"""Where a node keeps a client's secrets between the stages of a round of secure aggregation."""

RESIDUAL = "residual/"
"""What the names of tensors begin with that a compression left out of a client's last update."""


_OF_THE_DEVICE = ("seconds", "device_seconds", "joules")  # all that goes along with a masked update: its loss and norm tell of it


_latest: dict[str, dict[str, Site]] = {}


def _sites_of(run: str) -> dict[str, Site]:
    """The sites of an app, by where their samples lie, for as long as no other app runs in this process. They are not in the app itself: Ray
    makes it anew of its pickle for each message, and each would read the samples again."""
    if run not in _latest:
        _latest.clear()
    return _latest.setdefault(run, {})


def client_app(
    config: FederatedConfig,
    *,
    root: Path | None = None,
    kept: Path | None = None,
    threads: int | None = None,
    code: str | None = None,
    key: Key | None = None,
) -> Any:
    """Flower's ClientApp of a federation.

    Each node says by its configuration which client it is (`partition-id`), and may say where its own samples lie (`data`) and where it
    keeps what does not travel (`state`).

    Args:
        root: where data files lie, in a simulation.
        kept: the folder in which clients keep what does not travel, in a simulation.
        threads: of torch, in each process.
        code: "package.module:name" of what makes the module, in a federation of one.
        key: seals what clients keep, in a simulation.
    """
    app = flower("clientapp").ClientApp()
    run = secrets.token_hex(16)

    def here(context: Any) -> tuple[Site, int, Path | None]:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        node = context.node_config
        if "partition-id" not in node:
            raise ConfigError('This node does not say which client it is. Start it with --node-config "partition-id=0".')
        own, client = str(node.get("data", "")), int(node["partition-id"])
        if not 0 <= client < config.clients:
            raise ConfigError(f"Expected a partition-id from 0 to {config.clients - 1}, got {client}.")
        sites = _sites_of(run)
        if own not in sites:
            sites[own] = Site(config, root, Path(own) if own else None, code)
        own_state = Path(str(node["state"])) / config.sha256[:16] if "state" in node else None
        folder = kept / f"{client:04d}" if kept is not None else own_state
        if folder is None and (config.statistics == "local" or compression(config.compression).feedback):
            raise ConfigError(
                "Statistics, or what a compression leaves out, stay with this client, which has no place for them. Start it with "
                '--node-config "state=FOLDER".'
            )
        return sites[own], client, folder

    @app.query()  # type: ignore[untyped-decorator]
    def _who(message: Any, context: Any) -> Any:
        site, client, _ = here(context)
        train, held = site.samples(client)
        return _reply(message, {}, {"client": client, "num-examples": len(train), "held": 0 if held is None else len(held)})

    def trained(context: Any, message: Any) -> tuple[int, Arrays, int, dict[str, Any], bytes | None]:
        """The client, and what it sends: its update, the samples behind it, figures, and the packed update in place of the plain one."""
        site, client, folder = here(context)
        told = message.content["config"]
        round_ = int(told["round"])
        own = own_before(folder, round_, key) if folder is not None else {}
        done, staying = work(site, client, round_, arrays_in(message), own_part(own), epochs=told.get("epochs"))
        update, samples, figures = done.update, done.samples, done.row
        if site.fleet is not None:
            update = site.fleet.noisy(update, round_, client)
        if "clip" in told:
            update, within = clipped(update, float(told["clip"]))
            figures = {**figures, "within": int(within)}
        if client in config.poison:
            update, samples = poisoned(config.poison[client], update, samples, config.asked)
        payload = None
        if config.compression != "none":
            draws = stream(config.seed, f"compression/{round_}", str(client))
            packed = compress(update, compression(config.compression), draws, own_part(own, RESIDUAL))
            update, payload = {}, packed.payload
            staying |= {f"{RESIDUAL}{name}": value for name, value in packed.residual.items()}
        if folder is not None and staying:
            keep_own(folder, round_, staying, key)
        return client, update, samples, figures, payload

    @app.train()  # type: ignore[untyped-decorator]
    def _train(message: Any, context: Any) -> Any:
        client, update, samples, figures, payload = trained(context, message)
        record = {} if payload is None else {"payload": payload}
        return _reply(message, update, {"client": client, "num-examples": samples, **figures}, record)

    def secret(stage: str) -> Callable[[Any, Any], Any]:
        def _stage(message: Any, context: Any) -> Any:
            def sent() -> tuple[Arrays, int, dict[str, Any]]:
                _, update, samples, figures, _ = trained(context, message)
                return update, samples, {name: figures[name] for name in _OF_THE_DEVICE if name in figures}

            client = here(context)[1]
            state = dict(context.state.get(SECURE, {}))
            record, after, figures = answer(stage, config, client, dict(message.content["config"]), state, sent)
            context.state[SECURE] = flower("app").ConfigRecord(after)
            return _reply(message, {}, {"client": client, **figures}, record)

        return _stage

    for stage in STAGES if config.secure is not None else ():
        app.train(stage)(secret(stage))

    @app.evaluate()  # type: ignore[untyped-decorator]
    def _evaluate(message: Any, context: Any) -> Any:
        site, client, folder = here(context)
        round_ = int(message.content["config"]["round"])
        own = own_part(own_before(folder, round_ + 1, key)) if folder is not None else {}
        found = judge(site, client, arrays_in(message), own)
        right, count = (found["successes"], found["count"]) if found is not None else (0, 0)
        return _reply(message, {}, {"client": client, "successes": right, "count": count})

    return app


def server_app(lead: Callable[[Any], object]) -> Any:
    """Flower's ServerApp that hands its grid to `lead`, such as `Server(...).run`."""
    app = flower("serverapp").ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def _main(grid: Any, context: Any) -> None:
        lead(grid)

    return app


def own_part(own: Arrays, prefix: str = "") -> Arrays:
    """Of what stays with a client, the residual of its compression with `prefix` RESIDUAL, or the tensors of the network."""
    return {name.removeprefix(RESIDUAL): value for name, value in own.items() if name.startswith(RESIDUAL) == bool(prefix)}


def arrays_in(message: Any) -> Arrays:
    """The tensors that a message carries."""
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


def _reply(message: Any, arrays: Arrays, metrics: dict[str, Any], record: Mapping[str, Any] | None = None) -> Any:
    app = flower("app")
    records: dict[str, Any] = {"metrics": app.MetricRecord(metrics)}
    if record:
        records["record"] = app.ConfigRecord(dict(record))
    if arrays:
        records["arrays"] = app.ArrayRecord({name: app.Array(value) for name, value in arrays.items()})
    return app.Message(app.RecordDict(records), reply_to=message)
