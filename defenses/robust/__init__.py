"""Robust training: recipes for `trustsnn.training.train`, by name and joined with "+"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.defenses.robust.catalogue import RECIPES, RECIPES_FOR_EVENTS, RecipeEntry
from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.defenses.robust.at import AT
    from trustsnn.defenses.robust.base import Joined, Robust
    from trustsnn.defenses.robust.choose import parse, recipe
    from trustsnn.defenses.robust.conversion import RobustANN
    from trustsnn.defenses.robust.feel import FEEL
    from trustsnn.defenses.robust.hire import HIRE
    from trustsnn.defenses.robust.mpd_sgr import MPDSGR
    from trustsnn.defenses.robust.mppd_tv import MPPDTV
    from trustsnn.defenses.robust.noise import Noise
    from trustsnn.defenses.robust.rat import RAT
    from trustsnn.defenses.robust.sr import SR
    from trustsnn.defenses.robust.stog import StoG
    from trustsnn.defenses.robust.tgo import TGO
    from trustsnn.defenses.robust.trades import TRADES

_lazy = lazy_names(
    __name__,
    {
        "AT": "at",
        "FEEL": "feel",
        "HIRE": "hire",
        "Joined": "base",
        "MPDSGR": "mpd_sgr",
        "MPPDTV": "mppd_tv",
        "Noise": "noise",
        "RAT": "rat",
        "Robust": "base",
        "RobustANN": "conversion",
        "SR": "sr",
        "StoG": "stog",
        "TGO": "tgo",
        "TRADES": "trades",
        "parse": "choose",
        "recipe": "choose",
    },
)

__all__ = [
    "AT",
    "FEEL",
    "HIRE",
    "MPDSGR",
    "MPPDTV",
    "RAT",
    "RECIPES",
    "RECIPES_FOR_EVENTS",
    "SR",
    "TGO",
    "TRADES",
    "Joined",
    "Noise",
    "RecipeEntry",
    "Robust",
    "RobustANN",
    "StoG",
    "parse",
    "recipe",
]


def __getattr__(name: str) -> Any:
    return _lazy(name)
