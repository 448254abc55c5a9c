"""The schemes that deal samples to clients. Each draws by the order in which it gets the samples; `partition.divide` gives them by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import ConfigError
from trustsnn.plugins import Entry
from trustsnn.settings import check_choice, check_settings, from_line, setting

REDRAWS = 5000
Indices = NDArray[np.int64]

_HERE = "trustsnn.federated.dealing"
SCHEMES = {
    "iid": Entry(f"{_HERE}:IID", "shuffled and dealt in equal parts"),
    "dirichlet": Entry(f"{_HERE}:Dirichlet", "each class dealt by Dirichlet proportions, as FedSNN does: the smaller alpha, the fewer classes"),
    "shards": Entry(f"{_HERE}:Shards", "each client gets a few shards of the samples sorted by label (McMahan 2017)"),
    "group": Entry(f"{_HERE}:Group", "whole groups, such as the writers of characters, dealt to clients"),
}  # fmt: skip


class Scheme(Protocol):
    """A way to deal samples, with its settings."""

    name: ClassVar[str]

    def deal(self, labels: Indices, groups: Indices | None, clients: int, draws: np.random.Generator) -> Sequence[Indices]:
        """The indices [any order] that each client gets of samples with these labels [N] and groups [N], 0..G-1."""


@dataclass(frozen=True)
class IID:
    """Every client gets samples at random, as many as the others or one more."""

    name: ClassVar[str] = "iid"

    def deal(self, labels: Indices, groups: Indices | None, clients: int, draws: np.random.Generator) -> Sequence[Indices]:
        """See `Scheme`."""
        return np.array_split(draws.permutation(len(labels)), clients)


@dataclass(frozen=True)
class Dirichlet:
    """Each class is cut by proportions p ~ Dir(alpha, ..., alpha) over the clients (Hsu 2019, arXiv 1909.06335). Drawn again until every
    client has `minimum` samples; with `balance`, as in FedSNN (Venkatesha 2021, arXiv 2106.06579) and its forerunners, a client that has its
    equal share N / clients gets nothing of the classes that follow."""

    name: ClassVar[str] = "dirichlet"
    alpha: float = setting(0.5, high=1e6, above=True)
    minimum: int = setting(10, 1)
    balance: bool = True

    def __post_init__(self) -> None:
        check_settings(self, "partition 'dirichlet'")
        check_choice("partition 'dirichlet'", "balance", self.balance, (True, False))

    def deal(self, labels: Indices, groups: Indices | None, clients: int, draws: np.random.Generator) -> Sequence[Indices]:
        """See `Scheme`. ConfigError where it cannot be, or where `REDRAWS` draws gave some client too little each time."""
        if clients * self.minimum > len(labels):
            raise ConfigError(
                f"Cannot give {clients} clients at least {self.minimum} of {len(labels)} samples: it takes {clients * self.minimum}. Ask for "
                f"at most {len(labels) // self.minimum or 1} clients, or lower the minimum, as in dirichlet:{self.alpha:g}:minimum=1."
            )
        sizes, best = np.bincount(labels), 0
        for _ in range(REDRAWS):
            cuts, least = self._cuts(sizes, clients, draws)
            if least >= self.minimum:
                members = (draws.permutation(np.flatnonzero(labels == label)) for label in range(len(sizes)))
                parts = [np.split(own, cut) for own, cut in zip(members, cuts, strict=True)]
                return [np.concatenate(own) for own in zip(*parts, strict=True)]
            best = max(best, least)
        raise ConfigError(
            f"None of {REDRAWS} draws with alpha {self.alpha:g} gave each of {clients} clients at least {self.minimum} of {len(labels)} "
            f"samples: in the best of them one had {best}. Raise alpha, lower the minimum, or ask for fewer clients."
        )

    def _cuts(self, sizes: Indices, clients: int, draws: np.random.Generator) -> tuple[list[Indices], int]:
        """Where each class is cut, and how many samples the poorest client gets; 0 for a draw that gives a class to nobody."""
        filled, cuts = np.zeros(clients, dtype=np.int64), []
        for size in sizes:
            share = draws.dirichlet(np.full(clients, self.alpha))
            if self.balance and size:
                share = share * (filled < sizes.sum() / clients)
            if not share.sum() > 0:
                return [], 0
            cut = (np.cumsum(share / share.sum())[:-1] * size).astype(np.int64)
            filled += np.diff(cut, prepend=0, append=size)
            cuts.append(cut)
        return cuts, int(filled.min())


@dataclass(frozen=True)
class Shards:
    """The samples sorted by label are cut into clients times `shards` shards of equal size, of which each client gets `shards` at random:
    few classes each (McMahan 2017, arXiv 1602.05629, with 2)."""

    name: ClassVar[str] = "shards"
    shards: int = setting(2, 1)

    def __post_init__(self) -> None:
        check_settings(self, "partition 'shards'")

    def deal(self, labels: Indices, groups: Indices | None, clients: int, draws: np.random.Generator) -> Sequence[Indices]:
        """See `Scheme`. ConfigError for more shards than samples."""
        if clients * self.shards > len(labels):
            raise ConfigError(
                f"Cannot cut {len(labels)} samples into {clients * self.shards} shards, {self.shards} for each of {clients} clients. Ask for "
                "fewer of them."
            )
        pieces = np.array_split(np.argsort(labels, kind="stable"), clients * self.shards)
        dealt = draws.permutation(len(pieces)).reshape(clients, self.shards)
        return [np.concatenate([pieces[piece] for piece in own]) for own in dealt]


@dataclass(frozen=True)
class Group:
    """Whole groups are dealt at random, as many to each client as to the others or one more; with as many clients as groups each client is
    a group, in their order (LEAF, Caldas 2018, arXiv 1812.01097)."""

    name: ClassVar[str] = "group"

    def deal(self, labels: Indices, groups: Indices | None, clients: int, draws: np.random.Generator) -> Sequence[Indices]:
        """See `Scheme`. ConfigError for fewer groups than clients."""
        if groups is None:
            raise ConfigError(
                "The partition 'group' needs to know the group of each sample, such as its writer; none were given."
            )
        count = int(groups.max()) + 1
        if clients > count:
            raise ConfigError(f"Cannot deal {count} whole groups to {clients} clients. Ask for at most {count} clients.")
        order = np.arange(count) if clients == count else draws.permutation(count)
        return [np.flatnonzero(np.isin(groups, own)) for own in np.array_split(order, clients)]


def parse(text: str) -> Scheme:
    """The scheme of a line such as "iid", "dirichlet:0.5", "dirichlet:0.1:minimum=1", "shards:2" or "group". ConfigError for any other."""
    found: Scheme = from_line("partition", SCHEMES, text, "dirichlet:0.5:minimum=10")
    return found
