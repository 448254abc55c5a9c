"""Differentially private federated averaging: what a client does to its update, and what the server does with the updates of a round.

**Of clients** (DP-FedAvg, McMahan et al. 2018, arXiv 1710.06963). Each client is in a round with probability q, clips its update to the
norm C, and the server releases

    (sum of the clipped updates + z C N(0, I)) / (q N)

of N clients. All updates weigh the same: one client then moves the sum by at most C, whoever else is there and whatever the number of its
samples, and the divisor is a constant. With weights by numbers of samples, or divided by how many were drawn, the sum's sensitivity would
depend on the other clients. An empty round releases its noise as well.

**With a clip that adapts** (Andrew et al. 2021, arXiv 1905.03871), a client also says whether its norm was at most C. The noisy share of
those that say so moves C to a quantile of the norms. Sum and count share the noise multiplier z of the round, which is what an
accountant is told.

**Of samples**: each client trains with DP-SGD (`trustsnn.defenses.dp.train_private`); here is only what a round of it costs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trustsnn.defenses.dp.noise import Randomness
from trustsnn.defenses.dp.privacy import Guarantee, PrivacyConfig, epsilon, guarantee, noise_for
from trustsnn.errors import ConfigError
from trustsnn.federated.arrays import Array, Arrays, norm
from trustsnn.federated.ledger import Charge

Client = TypeVar("Client", int, str)
Total = dict[str, NDArray[np.float64]]
"""The sum of clipped updates by tensor, float64."""

_BELOW = 1 - 2.0**-23  # of C: rounding to float32 then never carries a clipped update over it


@dataclass(frozen=True)
class ClientGuarantee(Guarantee):
    """(eps, delta) differential privacy of the models of all rounds, for federations that differ by one client. `rate` is the probability
    of a client to be in a round, `steps` the number of rounds."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().to_dict(), "adjacency": "add or remove one client"}


@dataclass(frozen=True, kw_only=True)
class AdaptiveClip:
    """How C adapts: gamma, the share of clients whose norm is to be at most C; eta, the learning rate of log C; and sigma_b, the standard
    deviation of the noise on their count, by default a twentieth of the expected number of clients in a round."""

    quantile: float = 0.5
    learning_rate: float = 0.2
    count_deviation: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise ConfigError(f"Expected a quantile in [0, 1], got {self.quantile}.")
        _positive(learning_rate=self.learning_rate, count_deviation=self.count_deviation)

    def deviation(self, expected: float) -> float:
        """sigma_b for an expected number of clients."""
        return expected / 20 if self.count_deviation is None else self.count_deviation


def client_guarantee(privacy: PrivacyConfig, *, clients: int, rate: float, rounds: int, randomness: str) -> ClientGuarantee:
    """What a federation of so many clients guarantees each of them after all rounds; `privacy.clip` is the C of the first.

    Raises:
        ConfigError: settings out of range, delta not below 1 / clients, or no noise is enough.
    """
    if not (clients >= 1 and rounds >= 1 and 0 < rate <= 1):
        raise ConfigError(f"Expected clients, rounds and a rate in (0, 1], got {clients}, {rounds} and {rate}.")
    if privacy.delta >= 1 / clients:
        raise ConfigError(f"Expected delta below 1 / clients = {1 / clients:.2g}, got {privacy.delta}.")
    spent = {"rate": rate, "steps": rounds, "delta": privacy.delta}
    sigma = privacy.sigma or noise_for(privacy.eps or 0.0, privacy.accountant, **spent)
    eps = epsilon(privacy.accountant, sigma=sigma, **spent)  # type: ignore[arg-type]
    return ClientGuarantee(eps, privacy.delta, sigma, privacy.clip, rate, rounds, privacy.accountant, randomness)


def local_charge(privacy: PrivacyConfig, *, samples: int, batch_size: int, epochs: int, rounds: int) -> Charge:
    """What one round of DP-SGD costs the samples of a client that takes part in at most so many rounds.

    Args:
        privacy: `eps` is for all rounds together; the sigma that spends it is in the charge, and with it each round is trained
            (`PrivacyConfig(sigma=charge.sigma, ...)`). Or `sigma`, which stays.
        samples, batch_size, epochs: of the client, and of one round.

    Raises:
        ConfigError: sizes that fit no guarantee.
    """
    if not (samples >= 1 and batch_size >= 1 and epochs >= 1 and rounds >= 1):
        raise ConfigError(
            f"Expected samples, batch size, epochs and rounds from 1, got {samples}, {batch_size}, {epochs}, {rounds}."
        )
    whole = guarantee(privacy, samples=samples, batch_size=batch_size, epochs=epochs * rounds, randomness="")
    return Charge(whole.sigma, whole.rate, whole.steps // rounds)


# What a client does.


def clipped(update: Mapping[str, Array], clip: float) -> tuple[Arrays, bool]:
    """min(1, C / |u|) u over all tensors together, float32, and the client's bit: whether |u| was at most C.

    The result's norm is at most C, rounding included, so that clipping it again changes nothing. An update that is zero stays zero,
    and one that is not finite becomes zero, its bit false.
    """
    _positive(clip=clip)
    size = norm(update)
    if size <= clip:
        return dict(update), True
    if not math.isfinite(size):
        return {name: np.zeros_like(array) for name, array in update.items()}, False
    factor = clip / size * _BELOW
    return {name: np.asarray(np.multiply(array, factor, dtype=np.float64), np.float32) for name, array in update.items()}, False


# What the server does.


def sampled(clients: Iterable[Client], rate: float, source: Randomness, server_round: int) -> list[Client]:
    """The Poisson sample of a round: each client with probability q, independently; often fewer or more than q N, sometimes none.

    That eps profits from q takes that nobody but the server learns who was drawn. The order of `clients` does not matter.
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"Expected a sampling rate in (0, 1], got {rate}.")
    known = sorted(set(clients))
    return [known[place] for place in source.batch(server_round, len(known), rate)]


def clipped_sum(updates: Mapping[Client, Mapping[str, Array]], clip: float, like: Mapping[str, Array]) -> Total:
    """The sum of the updates by client, each clipped once more, whose norm moves by at most C when a client comes or goes.

    A client that clips right is not changed by it, and one that does not cannot break the guarantee of the others. Summed in the order
    of the clients, whichever answers first.

    Args:
        like: what an update looks like; only names and shapes count.

    Raises:
        ConfigError: an update with other names or shapes.
    """
    total = {name: np.zeros(array.shape) for name, array in like.items()}
    shapes = {name: array.shape for name, array in like.items()}
    for client in sorted(updates):
        if {name: np.shape(array) for name, array in updates[client].items()} != shapes:
            raise ConfigError(
                f"The update of client {client} has other names or shapes than the {len(shapes)} tensors of the model. Reject it."
            )
        for name, array in clipped(updates[client], clip)[0].items():
            total[name] += array
    return total


def noisy_mean(
    total: Mapping[str, NDArray[np.float64]], *, deviation: float, expected: float, source: Randomness, server_round: int
) -> Arrays:
    """(total + N(0, deviation^2 I)) / expected, float32: the update of the global model.

    Args:
        deviation: z C; with a clip that adapts, `sum_multiplier(z, sigma_b)` C.
        expected: q N, the number of clients expected in a round.
        source: its draws are keyed by the round. A seeded one needs a seed of its own, which no client trains with.
    """
    _positive(expected=expected)
    if not (deviation >= 0 and math.isfinite(deviation)):
        raise ConfigError(f"Expected a deviation of the noise from 0, got {deviation}.")
    names = sorted(total)
    drawn = source.normal(2 * server_round, sum(total[name].size for name in names))
    parts = np.split(drawn, np.cumsum([total[name].size for name in names])[:-1])
    noisy = {name: total[name] + deviation * part.reshape(total[name].shape) for name, part in zip(names, parts, strict=True)}
    return {name: np.asarray(noisy[name] / expected, np.float32) for name in total}


def sum_multiplier(sigma: float, count_deviation: float) -> float:
    """z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2): the noise multiplier on the sum with which a round that also releases the count has
    the noise multiplier z (Andrew et al., theorem 1). A client moves the count by 1/2, see `noisy_share`.

    Raises:
        ConfigError: 2 sigma_b is not above z: the count alone spends more than the round may.
    """
    _positive(sigma=sigma, count_deviation=count_deviation)
    if 2 * count_deviation <= sigma:
        raise ConfigError(
            f"Expected more noise on the count of clients than half the noise multiplier {sigma:g}, got {count_deviation:g}. Set "
            "count_deviation, or have more clients in a round."
        )
    return float((sigma**-2 - (2 * count_deviation) ** -2) ** -0.5)


def noisy_share(bits: Collection[bool], *, deviation: float, expected: float, source: Randomness, server_round: int) -> float:
    """The share of clients whose norm was at most C, from the bits b of those in a round:

        (sum of (b - 1/2) + N(0, deviation^2)) / expected + 1/2

    It is b - 1/2 that is summed, since a client that comes or goes then moves the sum by 1/2, and not by 1. May leave [0, 1].
    """
    _positive(expected=expected)
    total = sum(bool(bit) for bit in bits) - len(bits) / 2
    return float((total + deviation * source.normal(2 * server_round + 1, 1)[0]) / expected + 0.5)


def next_clip(clip: float, share: float, adaptive: AdaptiveClip) -> float:
    """C exp(-eta (share - gamma)): where more norms than the quantile are at most C, C shrinks."""
    return clip * math.exp(-adaptive.learning_rate * (share - adaptive.quantile))


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"Expected a positive, finite {name}, got {value}.")
