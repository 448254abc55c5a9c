"""SNN-AutoAttack: one call without parameters, the worst case over gradient estimators and attacks, sample by sample."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.attacks.apgd import APGD
from trustsnn.attacks.base import Attack, AttackResult
from trustsnn.attacks.estimators import estimator
from trustsnn.attacks.losses import margin
from trustsnn.attacks.pgd0 import PGD0
from trustsnn.attacks.sapgd import SAPGD
from trustsnn.attacks.square import Square
from trustsnn.attacks.twin import ann_twin
from trustsnn.blocks import is_stochastic
from trustsnn.errors import ConfigError
from trustsnn.models import SpikingNetwork
from trustsnn.rng import Draws

Kind = Literal["white-box", "black-box", "transfer"]
Make = Callable[..., Attack]
OWN: dict[str, Any] = {}  # the model's own surrogate


class Member(NamedTuple):
    """One attack of the ensemble: an attack class with its settings, and the estimator's name and settings (`OWN`: the
    model's own)."""

    label: str
    kind: Kind
    make: Make
    through: dict[str, Any] = OWN
    gradients: int = 0  # at most, a sample, of a deterministic model
    forwards: int = 0  # the same, without gradient

    def of_classes(self, classes: int) -> Member:
        """This member for so few classes that its loss is not defined: with the margin in its place."""
        settings: dict[str, Any] = getattr(self.make, "keywords", {})
        needed = {"dlr": 4 if settings.get("targets") else 3}.get(settings.get("loss", ""), 2)
        if classes >= needed:
            return self
        label = self.label.replace("-DLR-", "-MARGIN-")
        return self._replace(label=label, make=partial(self.make, loss="margin-ties"))

    def of(self, ensemble: Attack, **settings: Any) -> Attack:
        """The attack of this member under the threat of `ensemble`; `settings` take the place of what that and the member say."""
        through = estimator(**self.through) if self.through else None
        like = {name: getattr(ensemble, name) for name in ("eps", "norm", "eot", "seed")}
        return self.make(**{**like, "estimator": through, **settings})

    def works_on(self, model: nn.Module) -> bool:
        """Whether the model has what the member needs: a known ANN twin, or neurons that its estimator can differentiate."""
        if self.kind == "transfer":
            return isinstance(model, SpikingNetwork)
        return not self.through or estimator(**self.through).refusal(model) is None


_ESTIMATORS: dict[str, dict[str, Any]] = {
    "own": OWN,
    "wide triangular": {"name": "stbp", "surrogate": "triangular", "width": 2.0},
    "wide atan": {"name": "stbp", "surrogate": "atan", "width": 0.5},
    "rectangular": {"name": "stbp", "surrogate": "rectangular", "width": 1.0},
    "exponential": {"name": "stbp", "surrogate": "exponential", "width": 1.0},
    "sigmoid": {"name": "stbp", "surrogate": "sigmoid", "width": 0.25},
    "STE": {"name": "stbp", "surrogate": "ste", "width": 1.0},
    "PDSG": {"name": "pdsg"},
    "ASSG": {"name": "assg"},
    "HART": {"name": "hart"},
    "RGA": {"name": "rga"},
    "BPTR": {"name": "bptr"},
    "CBA": {"name": "cba"},
}


def _apgd(through: str, steps: int, loss: str = "ce-scaled", targets: int = 0) -> Member:
    name = f"APGD{'-T' if targets else ''}-{loss.partition('-')[0].upper()}-{steps}"
    make = partial(APGD, steps=steps, loss=loss, targets=targets)
    return Member(f"{name} through {through}", "white-box", make, _ESTIMATORS[through], (steps + 1) * max(1, targets))


def _pgd0(through: str, restarts: int) -> Member:
    """In the L0 ball, where the others are not defined. There few steps from many starts break more than many from few."""
    make = partial(PGD0, steps=20, restarts=restarts, loss="ce-scaled")
    return Member(f"PGD0-CE-20x{restarts} through {through}", "white-box", make, _ESTIMATORS[through], 21 * restarts)


def _sapgd(through: str, steps: int) -> Member:
    return Member(
        f"SA-PGD-{steps} through {through}",
        "white-box",
        partial(SAPGD, steps=steps, loss="ce-scaled"),
        _ESTIMATORS[through],
        steps + 1,
    )


def _twin(steps: int) -> Member:
    return Member(
        f"APGD-CE-{steps} on the ANN twin",
        "transfer",
        partial(APGD, steps=steps, loss="ce-scaled", early_stop=False),
        OWN,
        steps + 1,
    )


def _square(queries: int) -> Member:
    return Member(f"Square-{queries}", "black-box", partial(Square, queries=queries), OWN, 0, queries)


MEMBERS: dict[str, tuple[Member, ...]] = {
    "quick": (
        _apgd("wide atan", 10),
        _apgd("ASSG", 30),
        _apgd("own", 10),
        _apgd("RGA", 10),
        _apgd("own", 10, "dlr"),
        _twin(10),
        _square(50),
        *(_pgd0(name, 5) for name in ("wide atan", "ASSG", "own")),
    ),
    "standard": (
        _apgd("wide atan", 20),
        *(_apgd("ASSG", steps) for steps in (100, 300)),
        _apgd("own", 20),
        *(_apgd(name, 20) for name in ("wide triangular", "PDSG", "HART", "RGA", "BPTR", "CBA")),
        _sapgd("own", 40),
        _sapgd("ASSG", 40),
        _apgd("own", 40, "dlr"),
        _apgd("ASSG", 20, "dlr", 9),
        _twin(40),
        _square(500),
        *(_pgd0(name, 10) for name in ("wide atan", "ASSG", "own", "wide triangular", "PDSG", "HART", "RGA", "BPTR", "CBA")),
    ),
    "full": (
        _apgd("wide atan", 50),
        *(_apgd("ASSG", steps) for steps in (100, 300, 1000)),
        _apgd("ASSG", 1000, "margin-ties"),
        _apgd("own", 100),
        *(_apgd(name, 50) for name in _ESTIMATORS if name not in ("wide atan", "ASSG", "own")),
        _sapgd("own", 100),
        _sapgd("ASSG", 100),
        _sapgd("PDSG", 100),
        _apgd("own", 100, "dlr"),
        _apgd("own", 50, "dlr", 9),
        _apgd("ASSG", 50, "dlr", 9),
        _twin(100),
        _square(5000),
        *(_pgd0(name, 20) for name in _ESTIMATORS),
    ),
}
"""For each profile its members in the order of the cascade: a cheap one that breaks what is easy, then ASSG, which breaks most
(docs/results/attacks.md) and in "full" goes on with more steps, by which it breaks still more where much is left; last what needs no
gradient of the model, so that what it breaks was left by all before. Attacks of other surrogates are a sample of METHODS' sweep, not all
of it."""


@dataclass(frozen=True)
class EnsembleResult(AttackResult):
    """As `AttackResult`, with the members that ran, and for each sample which of them broke it: its place in `members`, -1 where
    none did and -2 where the sample was misclassified to begin with."""

    members: tuple[Member, ...] = ()
    broken_by: Tensor | None = None

    def names(self) -> list[str | None]:
        """For each sample the label of the member that broke it."""
        places = self.broken_by.tolist() if self.broken_by is not None else []
        return [self.members[place].label if place >= 0 else None for place in places]


@dataclass(frozen=True, kw_only=True)
class SNNAutoAttack(Attack):
    """Every member of a profile in turn, each on the samples that those before it left correct.

    Nothing is to be tuned: members, steps and losses belong to the profile ("quick", "standard" or "full"). Members whose
    estimator the model's neurons refuse, or that need a `SpikingNetwork` for its ANN twin, are left out; where there are fewer classes
    than a loss needs, the margin takes its place. On a stochastic model a sample counts as broken when the mean of its logits over
    `eot` draws is wrong. A sample that nothing breaks is given back at the point of its smallest margin. Without `early_stop` every
    member goes on with every sample, which then has the point of its largest margin, as samples for other models should.
    """

    profile: str = "standard"
    early_stop: bool = True

    name: ClassVar[str] = "snn-autoattack"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.profile not in MEMBERS:
            raise ConfigError(f"Unknown profile {self.profile!r} of snn-autoattack. Known: {', '.join(MEMBERS)}.")
        if self.estimator is not None or self.targeted or self.loss != "ce":
            raise ConfigError("snn-autoattack brings its own estimators, targets and losses. Leave them out.")

    def describe(self) -> dict[str, Any]:
        """As `Attack.describe`, with what the profile holds, so that another ensemble of the same name is another cell."""
        members = self._of_the_norm()
        through = {str(name): value for name, value in _ESTIMATORS.items() if any(m.through == value for m in members)}
        return {**super().describe(), "members": [member.label for member in members], "estimators": through}

    def members(self, model: nn.Module) -> tuple[Member, ...]:
        """The members that run on `model`."""
        spec: Any = getattr(model, "spec", None)
        classes = spec.classes if spec is not None else sys.maxsize
        return tuple(m.of_classes(classes) for m in self._of_the_norm() if m.works_on(model))

    def _of_the_norm(self) -> list[Member]:
        return [m for m in MEMBERS[self.profile] if self.norm in _norms(m)]

    def cost(self, model: nn.Module) -> tuple[int, int]:
        """Gradients and forward passes that one sample takes at most: what a sample that nothing breaks costs."""
        repeats = self.eot if is_stochastic(model) else 1
        gradients, forwards = (sum(each) for each in zip(*((m.gradients, m.forwards) for m in self.members(model)), strict=True))
        return repeats * gradients, repeats * forwards

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> EnsembleResult:
        begun = time.process_time()
        members = self.members(model)
        found = x.clone()
        broken_by = torch.full_like(y, -1)
        logits, _ = self.losses(model, x, y, draws.child("judge"))
        best = margin(logits, y).double()
        broken_by[logits.argmax(1) != y] = -2
        fell = torch.where(broken_by == -2, 0.0, torch.inf).double()
        zero, bad = torch.ones_like(y, dtype=torch.bool), torch.zeros_like(y, dtype=torch.bool)
        for place, member in enumerate(members):
            rows = (broken_by == -1 if self.early_stop else broken_by != -2).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            attack = member.of(self) if self.early_stop else member.of(self, early_stop=False)
            target = ann_twin(model) if member.kind == "transfer" else model
            ids = tuple(draws.ids[row] for row in rows.tolist())
            started = time.process_time() - begun
            result = attack.run(target, x[rows], y[rows], [f"{member.label}\x1f{each}" for each in ids])
            if member.kind == "white-box":
                zero[rows] &= result.zero_gradient
                bad[rows] |= result.nonfinite_gradient
            here = draws.select(rows.tolist()).child("judge", place)
            logits, _ = self.losses(model, result.adversarial, y[rows], here)
            value = margin(logits, y[rows]).double()
            fooled = logits.argmax(1) != y[rows]
            kept = (fooled & (broken_by[rows] == -1)) | (value > best[rows])
            found[rows[kept]], best[rows[kept]] = result.adversarial[kept], value[kept]
            fooled &= broken_by[rows] == -1
            broken_by[rows[fooled]] = place
            told = result.fell if result.fell is not None else torch.full_like(best[rows], torch.inf)
            fell[rows[fooled]] = (started + told[fooled]).clamp_max(time.process_time() - begun)
        zero &= broken_by != -2
        return EnsembleResult(found, zero, bad, None, fell, members, broken_by)


def _norms(member: Member) -> tuple[str, ...]:
    make: Any = member.make
    norms: tuple[str, ...] = make.func.norms
    return norms


def outcome(result: EnsembleResult) -> list[dict[str, Any]]:
    """For each member: its label and kind, how many samples it tried and how many of them it broke."""
    rows = []
    broken_by = result.broken_by if result.broken_by is not None else torch.zeros(0)
    for place, member in enumerate(result.members):
        tried = int(((broken_by == -1) | (broken_by >= place)).sum())
        rows.append({"member": member.label, "kind": member.kind, "tried": tried, "broken": int((broken_by == place).sum())})
    return rows
