"""What a client does in a round: train the global model on its own samples and give the change back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trustsnn.data import Dataset, load, splits
from trustsnn.defenses.dp import PrivacyConfig, train_private
from trustsnn.energy import count
from trustsnn.energy.costs import work_of
from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import Arrays, arrays_of, difference, load_arrays, norm
from trustsnn.federated.config import FederatedConfig
from trustsnn.federated.costs import Cost, round_cost
from trustsnn.federated.devices import Fleet
from trustsnn.federated.folders import aligned, load_clients
from trustsnn.federated.foreign import build, is_foreign
from trustsnn.federated.losses import loss
from trustsnn.federated.partition import Partition, divide
from trustsnn.federated.poison import tampered
from trustsnn.federated.privacy import local_charge
from trustsnn.hardware.choose import parse
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip
from trustsnn.models import rebuild
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import stream
from trustsnn.statistics import Figure
from trustsnn.training import TrainConfig, accuracy, train

_COUNTED = 32  # samples on which a client counts its operations


@dataclass(frozen=True)
class Work:
    """What a client did in a round: its update, the samples behind it, and plain figures of it."""

    update: Arrays
    samples: int
    row: dict[str, Any]


class Site:
    """One place where clients run: the data of all of them in a simulation, its own alone on a real device."""

    def __init__(
        self, config: FederatedConfig, root: Path | None = None, own: Path | None = None, code: str | None = None
    ) -> None:
        """`root` is where data files lie; `own` is the folder or file of the one client that lives here; `code` makes the module of a
        federation of one, see `trustsnn.federated.foreign`."""
        self.config, self.root, self.own, self.code = config, root, own, code

    def samples(self, client: int) -> tuple[Dataset, Dataset | None]:
        """A client's training samples, and those that it holds out; none where its share of them is below one."""
        mine = self._own if self.own is not None else self.data.select(self.partition.indices[client])
        kept = self.trains_on(client, len(mine))
        out = np.setdiff1d(np.arange(len(mine)), kept)
        return mine.select(kept), mine.select(out) if len(out) else None

    def trains_on(self, client: int, count: int | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The places, ascending, that a client trains on among its samples, of which there are `count`."""
        count = len(self.partition.indices[client]) if count is None else count
        order = stream(self.config.seed, "holdout", str(client)).permutation(count)
        return np.sort(order[int(self.config.holdout * count) :])

    def network(self, client: int) -> SpikingNetwork:
        """The federation's network as the client's device runs it: with its own number of time steps where it has one."""
        device = None if self.fleet is None else self.fleet.devices[client]
        return network(self.config, None if device is None else device.steps, self.code)

    def chip(self, model: SpikingNetwork, client: int) -> SpikingNetwork:
        """`model` on the chip of the client's device, or as it is where it has none."""
        twin = None if self.fleet is None else self.fleet.devices[client].twin
        return model if twin is None else deploy(model, parse(twin), Chip(number=client, seed=self.config.seed))

    @cached_property
    def fleet(self) -> Fleet | None:
        """The devices, where they differ."""
        return self.config.devices()

    @property
    def data(self) -> Dataset:
        """The training split that the clients of a simulation share out."""
        return self._divided[0]

    @property
    def partition(self) -> Partition:
        """Who owns which of its samples."""
        return self._divided[1]

    @cached_property
    def test(self) -> Dataset:
        """The test split."""
        if self.config.partition == "folders":
            return load_clients(self.config.data, "test", frames=self._frames)[0]
        return splits(self.config.data, self.root, frames=self._frames)["test"]

    @cached_property
    def _divided(self) -> tuple[Dataset, Partition]:
        if self.config.partition == "folders":
            data, partition = load_clients(self.config.data, "train", frames=self._frames)
            if len(partition) != self.config.clients:
                raise ConfigError(
                    f"Expected the folders of {self.config.clients} clients in {self.config.data}, got {len(partition)}."
                )
            return data, partition
        data = splits(self.config.data, self.root, frames=self._frames)["train"]
        return data, divide(data, self.config.partition, self.config.clients, seed=self.config.seed)

    @cached_property
    def _own(self) -> Dataset:
        assert self.own is not None
        mine = load(str(self.own), "train", root=self.root, frames=self._frames)
        return aligned(mine, self.config.classes) if self.config.classes else mine

    @property
    def _frames(self) -> int:
        return int(self.config.architecture["arguments"].get("steps", 1))


def network(config: FederatedConfig, steps: int | None = None, code: str | None = None) -> SpikingNetwork:
    """The network of a federation, with the weights that its own seed gives, unrolled over `steps` instead of its own number if given.
    `code` makes the module of a federation of one."""
    architecture = config.architecture
    if is_foreign(architecture):
        module: Any = build(architecture, code)
        return module  # type: ignore[no-any-return]
    if steps is not None:
        architecture = {**architecture, "arguments": {**architecture["arguments"], "steps": steps}}
    found = rebuild(architecture)
    if not isinstance(found, SpikingNetwork):
        raise ConfigError(f"Expected a network of layers to federate, got {type(found).__name__}. See: trustsnn list models")
    return found


def statistics(model: torch.nn.Module) -> set[str]:
    """The names of the running statistics of batch norms in a model's state."""
    return {name for name in model.state_dict() if name.endswith(("running_mean", "running_var"))}


def work(
    site: Site, client: int, round_: int, arrays: Arrays, own: Arrays | None = None, *, epochs: int | None = None
) -> tuple[Work, Arrays]:
    """Train the global model, `arrays`, on a client's samples.

    Args:
        epochs: of this round, where the device gets less done than all of them.
        own: tensors that stay with the client, from its last round; those of `arrays` in its first one.

    Returns:
        What goes to the server, and the tensors that stay with the client.
    """
    begun = time.perf_counter()
    config = site.config
    model = site.network(client)
    load_arrays(model, arrays)
    load_arrays(model, own or {})
    data, held = site.samples(client)
    private = config.privacy is not None and config.privacy.unit == "sample"
    if client in config.poison:
        data = tampered(config.poison[client], data, config.seed)
    settings = config.training(client, round_)
    settings = replace(settings, epochs=epochs or settings.epochs)
    if len(data) < settings.batch_size:
        settings = replace(settings, batch_size=max(2, len(data)))
    row: dict[str, Any]
    if private:
        row = _train_privately(model, data, settings, config)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)  # of a module's own dropout
            log = train(model, data, settings, recipe=loss(config.loss).recipe(model, data))
        row = {"loss": float(log[-1]["loss"]), "train_accuracy": float(log[-1]["train_accuracy"])}
    after = arrays_of(model)
    staying = {name: after.pop(name) for name in statistics(model)} if config.statistics == "local" else {}
    update = difference(after, arrays)
    row["norm"] = norm(update)
    counted = held if private else data  # what they make the network do is not private
    if counted is not None:
        cost = _cost(site, client, model, counted, len(data), settings.epochs)
        row |= {"joules": cost.compute_joules, "device_seconds": cost.compute_seconds}
    return Work(update, len(data), {**row, "seconds": time.perf_counter() - begun}), staying


def _cost(site: Site, client: int, model: SpikingNetwork, data: Dataset, samples: int, epochs: int) -> Cost:
    """What the training of a round on so many samples costs the device, by the operations of the trained model on some of `data`."""
    seen = data.take(min(len(data), _COUNTED), site.config.seed)
    slowdown = 1.0 if site.fleet is None else site.fleet.devices[client].slowdown
    return round_cost(
        work_of(count(model, seen, seed=site.config.seed)), model.spec.steps, site.config.costs, samples=samples, epochs=epochs,
        received=0, sent=0, slowdown=slowdown,
    )  # fmt: skip


def _train_privately(model: SpikingNetwork, data: Dataset, settings: TrainConfig, config: FederatedConfig) -> dict[str, Any]:
    """DP-SGD with the noise that the ledger charges a round at. Loss and accuracy on the training samples are not private: none is told."""
    given = config.privacy
    assert given is not None
    charge = local_charge(  # of a whole round, also where a straggler does less of it: its sigma is what was charged
        given.asked(), samples=len(data), batch_size=settings.batch_size, epochs=config.local.epochs, rounds=config.rounds
    )
    privacy = PrivacyConfig(
        sigma=charge.sigma, delta=given.delta, clip=given.clip, accountant=given.accountant, seeded=given.seeded
    )
    train_private(model, data, settings, privacy)
    return {}


def judge(site: Site, client: int, arrays: Arrays, own: Arrays | None = None) -> Figure | None:
    """The accuracy of the global model on the samples that a client holds out, with its own tensors, on its own chip; None where it has none."""
    held = site.samples(client)[1]
    if held is None:
        return None
    model = site.network(client)
    load_arrays(model, {**arrays, **(own or {})})
    return accuracy(site.chip(model.eval(), client), held, seed=site.config.seed)
