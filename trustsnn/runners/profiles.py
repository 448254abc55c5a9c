"""The audit profiles: which attacks with which settings and gradient estimators. Light: it imports no torch."""

from __future__ import annotations

from typing import Any, NamedTuple


class Item(NamedTuple):
    """One attack of a profile; `surrogate` (name, width) replaces the model's own where it is given."""

    attack: str
    settings: dict[str, Any]
    surrogate: tuple[str, float] | None = None


class Profile(NamedTuple):
    """Attacks to run at every norm and eps, the draws per gradient for stochastic models, and one line on it."""

    description: str
    items: tuple[Item, ...]
    eot: int


_SURROGATES = (
    ("triangular", 0.5),
    ("triangular", 2.0),
    ("rectangular", 0.5),
    ("rectangular", 1.0),
    ("atan", 0.5),
    ("atan", 1.0),
    ("sigmoid", 0.25),
    ("exponential", 1.0),
    ("ste", 1.0),
)

PROFILES = {
    "quick": Profile(
        "FGSM and PGD-10 through the model's own surrogate, PGD-10 through a heavy-tailed one",
        (Item("fgsm", {}), Item("pgd", {"steps": 10}), Item("pgd", {"steps": 10}, ("atan", 0.5))),
        5,
    ),
    "standard": Profile(
        "FGSM, PGD-40 with two restarts and two losses, PGD-20 through four other surrogates",
        (
            Item("fgsm", {}),
            Item("pgd", {"steps": 40, "restarts": 2}),
            Item("pgd", {"steps": 40, "loss": "margin"}),
            *(
                Item("pgd", {"steps": 20}, s)
                for s in (("triangular", 2.0), ("rectangular", 1.0), ("atan", 0.5), ("exponential", 1.0))
            ),
        ),
        10,
    ),
    "full": Profile(
        "FGSM, PGD-100 with five restarts and two losses, targeted PGD, PGD-50 through nine other surrogates",
        (
            Item("fgsm", {}),
            Item("pgd", {"steps": 100, "restarts": 5}),
            Item("pgd", {"steps": 100, "restarts": 2, "loss": "margin"}),
            Item("pgd", {"steps": 100, "targeted": True}),
            *(Item("pgd", {"steps": 50}, s) for s in _SURROGATES),
        ),
        20,
    ),
}
