"""The privacy ledger: a file that says what each round of a federation spent, survives a crash, and refuses a round beyond the budget.

Charge first, then train: when `charge` returns, its line is on the disk. A round that was charged and never ran is counted, and none runs
without being counted.

Accounts. Under privacy of samples each client is one: its DP-SGD steps compose by themselves, as the clients' samples are disjoint, and the
eps of the federation is the largest. Somebody whose samples lie at several clients spends the sum. Under privacy of clients there is one,
`FEDERATION`, a step a round; who was drawn is not written down, since eps rests on nobody knowing it.

Each line holds the SHA-256 of itself and the line before. That finds accidents and careless edits: a line changed, lost, added or moved.
It has no key, so whoever rewrites all lines that follow is not found; nor are whole lines cut off the end, unless `head` is kept elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from trustsnn.canonical import canonical_json, sha256_of
from trustsnn.defenses.dp.privacy import ACCOUNTANTS, composed
from trustsnn.errors import ConfigError, PrivacyBudgetError, RunError, UnsafeArtifactError
from trustsnn.files import write_errors, write_text

FEDERATION = "federation"
"""The account of a federation that protects clients."""

UNITS = ("client", "sample")
"""What may come or go between two neighbouring data sets."""

History = tuple[tuple[float, float, int], ...]
"""(sigma, rate, steps), as Opacus's accountants take it."""

_FORMAT = "trustsnn privacy ledger 1"


@dataclass(frozen=True)
class Charge:
    """Steps of the Poisson-subsampled Gaussian mechanism: noise multiplier sigma > 0, sampling rate q in (0, 1], number of steps."""

    sigma: float
    rate: float
    steps: int = 1

    def __post_init__(self) -> None:
        numbers = all(isinstance(value, int | float) for value in (self.sigma, self.rate)) and type(self.steps) is int
        if not (numbers and 0 < self.sigma < math.inf and 0 < self.rate <= 1 and self.steps >= 1):
            raise ConfigError(
                f"Expected sigma > 0, a rate in (0, 1] and whole steps from 1, got {self.sigma}, {self.rate}, {self.steps}."
            )
        object.__setattr__(self, "sigma", float(self.sigma))
        object.__setattr__(self, "rate", float(self.rate))


class Ledger:
    """What a run has spent, in a file of JSON lines. Several processes may hold the same one.

    Args:
        path: of the file; made where it is not there.
        unit: what is protected, one of `UNITS`.
        delta: in (0, 1).
        eps: the budget of each account; None counts without a limit.
        accountant: one of `trustsnn.defenses.dp.privacy.ACCOUNTANTS`.
        run: plain values that say which run this is the ledger of.
        head: of the ledger as it was last seen; one that does not hold it any more is refused.

    Attributes:
        notes: what was mended on reading.

    Raises:
        ConfigError: settings out of range.
        RunError: the file is the ledger of another run or of other settings, or cannot be read or written.
        UnsafeArtifactError: the file is no ledger, was edited, or lost lines.
    """

    def __init__(
        self,
        path: Path,
        *,
        unit: str,
        delta: float,
        eps: float | None,
        run: Mapping[str, Any],
        accountant: str = "prv",
        head: str = "",
    ) -> None:
        if unit not in UNITS or accountant not in ACCOUNTANTS:
            raise ConfigError(
                f"Expected a unit of {', '.join(UNITS)} and an accountant of {', '.join(ACCOUNTANTS)}, got {unit!r} and {accountant!r}."
            )
        if not 0 < delta < 1 or (eps is not None and not 0 < eps < math.inf):
            raise ConfigError(f"Expected delta in (0, 1) and a positive, finite eps or none, got {delta} and {eps}.")
        self.path, self.unit, self.delta, self.budget, self.accountant = path, unit, delta, eps, accountant
        self.notes: tuple[str, ...] = ()
        terms = {"accountant": accountant, "delta": float(delta), "eps": eps and float(eps), "run": dict(run), "unit": unit}
        self._terms: dict[str, Any] = json.loads(canonical_json({"format": _FORMAT, **terms}))
        self._seen = head
        if not path.exists():
            if head:
                raise UnsafeArtifactError(f"Expected the ledger of a run that has spent privacy at {path}, found none.")
            write_text(path, _line(self._terms, "")[0])
        with self._locked():
            pass

    @property
    def head(self) -> str:
        """The SHA-256 that stands for all lines. Kept in a checkpoint, it finds a ledger that was set back."""
        return self._seen

    def charge(self, server_round: int, charges: Mapping[str, Charge], attempt: int = 0) -> None:
        """Write down what a round will spend by account, before it runs. Charged once more with the same content, nothing changes.

        Args:
            server_round: from 0.
            attempt: from 0. A round that was killed and runs again is one more release if its noise is drawn afresh and somebody
                not trusted may have seen something of the first: it needs the next attempt, which adds up. With the same noise
                (seeded), or where nothing was seen, it is the same attempt.

        Raises:
            PrivacyBudgetError: an account would exceed the budget; nothing is written.
            RunError: the round was charged otherwise before, or the file cannot be written.
        """
        wrong = not charges or any(type(n) is not int or n < 0 for n in (server_round, attempt))
        if wrong or not all(account and isinstance(account, str) for account in charges):
            raise ConfigError(
                f"Expected charges by account, and a round and an attempt from 0, got {dict(charges)}, {server_round}, {attempt}."
            )
        if self.unit == "client" and set(charges) != {FEDERATION}:
            raise ConfigError(f"Expected one charge to {FEDERATION!r} in a ledger of clients, got {', '.join(sorted(charges))}.")
        with self._locked() as stream:
            known = self._rounds.get((server_round, attempt))
            if known == charges:
                os.fsync(stream.fileno())  # whoever wrote it may have been killed before this
                return
            if known is not None:
                raise RunError(
                    f"Round {server_round} (attempt {attempt}) is already charged otherwise in {self.path}: {_said(known)} there, "
                    f"{_said(charges)} now. Go on with the settings that it was started with."
                )
            if over := sorted(set(charges) - set(self.affordable(charges))):
                raise PrivacyBudgetError(
                    f"Round {server_round} would take {len(over)} account(s), {over[0]} first, from eps {self.eps(over[0]):.4g} to "
                    f"{self.eps(over[0], charges[over[0]]):.4g}, beyond the budget of {self.budget:g} at delta {self.delta:g}. Stop here, "
                    "leave these out, or start a run with a larger budget or more noise."
                )
            body = {
                "attempt": attempt,
                "charges": {a: [c.sigma, c.rate, c.steps] for a, c in charges.items()},
                "round": server_round,
            }
            line, digest = _line(body, self.head)
            stream.seek(0, os.SEEK_END)
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
            self._rounds[server_round, attempt] = dict(charges)
            self._seen = digest

    def charged(self, server_round: int, attempt: int = 0) -> list[str]:
        """The accounts that a round was charged to, in a run before this one too; none where it was not charged."""
        return sorted(self._rounds.get((server_round, attempt), {}))

    def affordable(self, charges: Mapping[str, Charge]) -> list[str]:
        """The accounts that stay within the budget if they are charged so."""
        if self.budget is None:
            return list(charges)
        return [account for account, charge in charges.items() if self.eps(account, charge) <= self.budget]

    def history(self, account: str) -> History:
        """All steps of an account, those of the same noise and rate as one, in ascending order: the order of rounds does not matter."""
        return _merged([charges[account] for charges in self._rounds.values() if account in charges])

    def eps(self, account: str, *more: Charge) -> float:
        """What an account has spent, or would have with these charges on top; 0 for one without any."""
        return _eps(self.accountant, _merged([Charge(*part) for part in self.history(account)] + list(more)), self.delta)

    def spent(self) -> dict[str, float]:
        """The eps of each account; that of the federation is the largest."""
        accounts = sorted({account for charges in self._rounds.values() for account in charges})
        return {account: self.eps(account) for account in accounts}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each account of each line: round, attempt, account, sigma, rate, steps, and the eps of the account after it."""
        so_far: dict[str, list[Charge]] = {}
        found = []
        for (server_round, attempt), charges in self._rounds.items():
            for account, charge in sorted(charges.items()):
                so_far.setdefault(account, []).append(charge)
                eps = _eps(self.accountant, _merged(so_far[account]), self.delta)
                found.append(
                    {"round": server_round, "attempt": attempt, "account": account, "sigma": charge.sigma, "rate": charge.rate,
                     "steps": charge.steps, "eps": eps}
                )  # fmt: skip
        return found

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file, which no other process writes meanwhile, read anew."""
        with write_errors(self.path), open(self.path, "rb+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            self._read(stream)
            yield stream

    def _read(self, stream: BinaryIO) -> None:
        whole, _, torn = stream.read().rpartition(b"\n")
        if torn and whole:  # a crash cut the last line short: its round has not run, as `charge` had not returned
            stream.truncate(len(whole) + 1)
            os.fsync(stream.fileno())
            self.notes += (
                f"{self.path}: a last line of {len(torn)} bytes that a crash had cut short was dropped; its round never ran.",
            )
        self._rounds: dict[tuple[int, int], dict[str, Charge]] = {}
        heads: list[str] = []
        for number, line in enumerate(whole.split(b"\n"), 1):
            previous = heads[-1] if heads else ""
            try:
                entry = json.loads(line)
                digest = entry.pop("sha256")
                if _line(entry, previous)[0].encode() != line + b"\n":
                    raise ValueError("it or the line before is not byte for byte as it was written")
                if number == 1 and entry["format"] != _FORMAT:
                    raise ValueError(f"the format is {entry['format']!r}, not {_FORMAT!r}")
                if number > 1:
                    charges = {account: Charge(*values) for account, values in entry["charges"].items()}
                    self._rounds[entry["round"], entry["attempt"]] = charges
            except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
                raise UnsafeArtifactError(
                    f"{self.path}, line {number}, is not what this ledger wrote: {error}. What was spent is not known: restore the file "
                    "from a copy; or start a run anew, with what this one may have spent on top."
                ) from error
            if number == 1 and entry != self._terms:
                parts = [name for name in self._terms if entry.get(name) != self._terms[name]]
                raise RunError(
                    f"{self.path} is the ledger of another run ({', '.join(parts) or 'its terms'} differ). It is left as it is: choose "
                    "another file, or the settings that it was started with."
                )
            heads.append(digest)
        if self._seen and self._seen not in heads:
            raise UnsafeArtifactError(
                f"{self.path} has lost rounds that it held before: no line of it is {self._seen}. Restore it from a copy."
            )
        self._seen = heads[-1]


def _line(entry: Mapping[str, Any], previous: str) -> tuple[str, str]:
    digest = sha256_of([previous, entry])
    return canonical_json({**entry, "sha256": digest}) + "\n", digest


def _merged(charges: list[Charge]) -> History:
    steps: Counter[tuple[float, float]] = Counter()
    for charge in charges:
        steps[charge.sigma, charge.rate] += charge.steps
    return tuple((sigma, rate, count) for (sigma, rate), count in sorted(steps.items()))


@lru_cache(maxsize=4096)
def _eps(accountant: str, history: History, delta: float) -> float:
    return composed(accountant, history, delta)


def _said(charges: Mapping[str, Charge]) -> str:
    shown = [f"{account} sigma {c.sigma:g}, rate {c.rate:g}, {c.steps} steps" for account, c in sorted(charges.items())[:3]]
    return "; ".join(shown) + f" and {len(charges) - 3} more" * (len(charges) > 3)
