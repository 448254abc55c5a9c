"""Attacks on spiking networks, and what tells whether an evaluation by them can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.attacks.catalogue import ATTACKS
from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.base import Attack, AttackResult
    from trustsnn.attacks.fgsm import FGSM
    from trustsnn.attacks.pgd import PGD

_lazy = lazy_names(__name__, {"Attack": "base", "AttackResult": "base", "FGSM": "fgsm", "PGD": "pgd"})

__all__ = ["ATTACKS", "FGSM", "PGD", "Attack", "AttackResult"]


def __getattr__(name: str) -> Any:
    return _lazy(name)
