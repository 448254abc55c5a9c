"""The audit profiles: which attacks with which settings and gradient estimators. Light: it imports no torch."""

from __future__ import annotations

from typing import Any, NamedTuple


class Item(NamedTuple):
    """One attack of a profile; `estimator` (its name and settings) replaces the model's own where it is given. snn-autoattack is
    that of the profile, here as where a user names it."""

    attack: str
    settings: dict[str, Any]
    estimator: dict[str, Any] | None = None


class Profile(NamedTuple):
    """One line on it, the attacks to run on models of images and of events at every norm and eps that they have, and the
    draws per gradient for stochastic models."""

    description: str
    images: tuple[Item, ...]
    events: tuple[Item, ...]
    eot: int

    def attacks(self, domain: str) -> tuple[Item, ...]:
        """The attacks for a model of that domain."""
        return self.images if domain == "image" else self.events


WIDE: dict[str, Any] = {"name": "stbp", "surrogate": "atan", "width": 0.5}

PROFILES = {
    "quick": Profile(
        "FGSM, PGD-10, and the quick ensemble over gradient estimators, with the ANN twin and Square; for events insertion "
        "through two surrogates, deletion, SpikeFool and SDA-30",
        (Item("fgsm", {}), Item("pgd", {"steps": 10}), Item("snn-autoattack", {})),
        (
            Item("insertion", {}),
            Item("insertion", {}, WIDE),
            Item("deletion", {}),
            Item("spikefool", {"rivals": 3}),
            Item("sda", {"iterations": 30}),
        ),
        5,
    ),
    "standard": Profile(
        "FGSM, PGD-40 with two restarts and two losses, the standard ensemble over gradient estimators, and the smallest eps by "
        "bisection; for events insertion, deletion, SpikeFool, SDA through four estimators, retiming, corner and dash",
        (
            Item("fgsm", {}),
            Item("pgd", {"steps": 40, "restarts": 2}),
            Item("pgd", {"steps": 40, "loss": "margin"}),
            Item("snn-autoattack", {}),
            Item("bisection", {}),
        ),
        (
            Item("insertion", {}),
            Item("deletion", {}),
            Item("spikefool", {}),
            Item("sda", {"iterations": 100}),
            *(Item("sda", {"iterations": 100}, each) for each in (WIDE, {"name": "assg"}, {"name": "rga"})),
            Item("retiming", {}),
            Item("corner", {}),
            Item("dash", {}),
        ),
        10,
    ),
    "full": Profile(
        "FGSM, PGD-50 and PGD-100, PGD-100 with five restarts on the margin loss and targeted, the full ensemble over gradient "
        "estimators, and the smallest eps by bisection; for events insertion, deletion, SpikeFool, SDA-100 and SDA-200, SDA and "
        "retiming through six estimators, corner and dashes",
        (
            Item("fgsm", {}),
            Item("pgd", {"steps": 50}),
            Item("pgd", {"steps": 100}),
            Item("pgd", {"steps": 100, "restarts": 5, "loss": "margin"}),
            Item("pgd", {"steps": 100, "targeted": True}),
            Item("snn-autoattack", {}),
            Item("bisection", {"rounds": 8}),
        ),
        (
            Item("insertion", {"per_step": 1}),
            Item("deletion", {"per_step": 1}),
            Item("spikefool", {}),
            Item("sda", {"iterations": 100}),
            Item("sda", {"iterations": 200}),
            *(
                Item(attack, {}, each)
                for attack in ("sda", "retiming")
                for each in (None, WIDE, {"name": "assg"}, {"name": "pdsg"}, {"name": "rga"}, {"name": "bptr"}, {"name": "cba"})
                if (attack, each) != ("sda", None)
            ),
            Item("corner", {}),
            Item("dash", {}),
            Item("filter-aware-dash", {}),
        ),
        20,
    ),
}
