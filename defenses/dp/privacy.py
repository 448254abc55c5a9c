"""What a private training run guarantees: (eps, delta) by Opacus's accountants, and the noise that a wanted eps takes."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from trustsnn.errors import ConfigError, MissingExtraError

ACCOUNTANTS = {
    "prv": "numerical composition of privacy loss random variables (Gopi 2021): the tighter one",
    "rdp": "Renyi differential privacy (Mironov 2019)",
}


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What is asked of a private training run.

    eps: the largest eps that the whole run may spend; the noise follows from it. Or sigma: the noise multiplier itself.
    delta: in (0, 1), and below 1 / samples.
    clip: C, the L2 norm that each sample's gradient is clipped to.
    accountant: one of `ACCOUNTANTS`.
    seeded: batches and noise come from the seed of the training, and not from the operating system: repeatable, and no guarantee
        against whoever knows the seed.
    """

    eps: float | None = None
    sigma: float | None = None
    delta: float = 1e-5
    clip: float = 1.0
    accountant: str = "prv"
    seeded: bool = False

    def __post_init__(self) -> None:
        if (self.eps is None) == (self.sigma is None):
            raise ConfigError(f"Expected either eps or sigma (--eps or --sigma), got eps {self.eps} and sigma {self.sigma}.")
        for name in ("eps", "sigma", "clip"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"Expected a positive, finite {name} (--{name}), got {value}.")
        if not 0 < self.delta < 1:
            raise ConfigError(f"Expected delta in (0, 1) (--delta), got {self.delta}. 1e-5 is usual.")
        if self.accountant not in ACCOUNTANTS:
            raise ConfigError(f"Unknown accountant {self.accountant!r} (--accountant). Known: {', '.join(ACCOUNTANTS)}.")


@dataclass(frozen=True)
class Guarantee:
    """(eps, delta) differential privacy of a run of the Poisson-subsampled Gaussian mechanism, for data sets that differ by one sample,
    which is there or not. `rate` is q, the probability of a sample to be in a batch; `randomness` where batches and noise come
    from."""

    eps: float
    delta: float
    sigma: float
    clip: float
    rate: float
    steps: int
    accountant: str
    randomness: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        return {**asdict(self), "adjacency": "add or remove one sample"}


def epsilon(accountant: str, *, sigma: float, rate: float, steps: int, delta: float) -> float:
    """The eps that Opacus's accountant gives for `steps` steps of noise multiplier sigma and sampling rate q; 0 for no step."""
    _opacus()
    return _of_one(accountant, (sigma, rate, steps), delta)


@lru_cache(maxsize=4096)
def _of_one(accountant: str, part: tuple[float, float, int], delta: float) -> float:
    """Kept: a federation asks the same for all its clients and rounds, a third of a second each."""
    return composed(accountant, [part], delta)


def composed(accountant: str, history: Iterable[tuple[float, float, int]], delta: float) -> float:
    """The same for a history of (sigma, rate, steps) that differ, one after the other."""
    counted = _opacus().create_accountant(mechanism=accountant)
    counted.history = [part for part in history if part[2] > 0]
    if not counted.history:
        return 0.0
    with warnings.catch_warnings(action="ignore"):  # an order at the end of its range: looser, and still a bound
        return float(counted.get_epsilon(delta))


@lru_cache(maxsize=256)
def noise_for(eps: float, accountant: str, *, rate: float, steps: int, delta: float) -> float:
    """A noise multiplier sigma with which the run spends at most eps, and at least eps - 0.01 or 99 % of it.

    Raises:
        ConfigError: no noise is enough, because eps is too small.
    """
    search = importlib.import_module("opacus.accountants.utils") if _opacus() else None
    try:
        with warnings.catch_warnings(action="ignore"):  # an order at the end of its range: looser, and still a bound
            return float(
                search.get_noise_multiplier(  # type: ignore[union-attr]
                    target_epsilon=eps, target_delta=delta, sample_rate=rate, steps=steps, accountant=accountant,
                    epsilon_tolerance=min(0.01, 0.01 * eps),
                )
            )  # fmt: skip
    except ValueError as error:
        raise ConfigError(
            f"No noise is enough for eps {eps} at delta {delta} in {steps} steps: {error}. Ask for more eps."
        ) from error


def guarantee(privacy: PrivacyConfig, *, samples: int, batch_size: int, epochs: int, randomness: str) -> Guarantee:
    """What a whole run spends: q = batch_size / samples, and round(1 / q) steps an epoch."""
    if batch_size > samples:
        raise ConfigError(f"Expected a mean batch size of at most the {samples} samples, got {batch_size} (--batch-size).")
    if privacy.delta >= 1 / samples:
        raise ConfigError(
            f"Expected delta below 1 / samples = {1 / samples:.2g} (--delta), got {privacy.delta}: with a larger one a run that "
            "publishes a whole sample counts as private."
        )
    rate, steps = batch_size / samples, epochs * steps_per_epoch(samples, batch_size)
    account = {"rate": rate, "steps": steps, "delta": privacy.delta}
    sigma = privacy.sigma
    if sigma is None:
        assert privacy.eps is not None
        sigma = noise_for(privacy.eps, privacy.accountant, **account)
    eps = epsilon(privacy.accountant, sigma=sigma, **account)  # type: ignore[arg-type]
    return Guarantee(eps, privacy.delta, sigma, privacy.clip, rate, steps, privacy.accountant, randomness)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Steps after which each sample was drawn once in the mean."""
    return max(1, round(samples / batch_size))


def _opacus() -> Any:
    try:
        return importlib.import_module("opacus.accountants")
    except ImportError as error:
        raise MissingExtraError(
            "opacus", "The accountant of differentially private training", "pip install 'trustsnn[dp]'"
        ) from error
