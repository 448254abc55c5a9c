"""The audit profiles: which attacks with which settings and gradient estimators. Light: it imports no torch."""

from __future__ import annotations

from typing import Any, NamedTuple


class Item(NamedTuple):
    """One attack of a profile; `estimator` (its name and settings) replaces the model's own where it is given."""

    attack: str
    settings: dict[str, Any]
    estimator: dict[str, Any] | None = None


class Profile(NamedTuple):
    """Attacks to run at every norm and eps, the draws per gradient for stochastic models, and one line on it."""

    description: str
    items: tuple[Item, ...]
    eot: int


PROFILES = {
    "quick": Profile(
        "FGSM, PGD-10, and the quick ensemble over gradient estimators, with the ANN twin and Square",
        (Item("fgsm", {}), Item("pgd", {"steps": 10}), Item("snn-autoattack", {"profile": "quick"})),
        5,
    ),
    "standard": Profile(
        "FGSM, PGD-40 with two restarts and two losses, and the standard ensemble over gradient estimators",
        (
            Item("fgsm", {}),
            Item("pgd", {"steps": 40, "restarts": 2}),
            Item("pgd", {"steps": 40, "loss": "margin"}),
            Item("snn-autoattack", {"profile": "standard"}),
        ),
        10,
    ),
    "full": Profile(
        "FGSM, PGD-50 and PGD-100, PGD-100 with five restarts on the margin loss and targeted, and the full ensemble over gradient estimators",
        (
            Item("fgsm", {}),
            Item("pgd", {"steps": 50}),
            Item("pgd", {"steps": 100}),
            Item("pgd", {"steps": 100, "restarts": 5, "loss": "margin"}),
            Item("pgd", {"steps": 100, "targeted": True}),
            Item("snn-autoattack", {"profile": "full"}),
        ),
        20,
    ),
}
