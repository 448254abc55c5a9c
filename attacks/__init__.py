"""Attacks on spiking networks, and what tells whether an evaluation by them can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.attacks.catalogue import ATTACKS
from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.apgd import APGD
    from trustsnn.attacks.base import Attack, AttackResult
    from trustsnn.attacks.budgets import SmallestEps, restarts_curve, smallest_eps, steps_curve
    from trustsnn.attacks.curves import BudgetCurve, Curve, EpsCurve, robust_curve
    from trustsnn.attacks.cw import CW
    from trustsnn.attacks.deepfool import DeepFool
    from trustsnn.attacks.fgsm import FGSM, RFGSM
    from trustsnn.attacks.momentum import MIFGSM
    from trustsnn.attacks.pgd import PGD
    from trustsnn.attacks.pgd0 import PGD0
    from trustsnn.attacks.sapgd import SAPGD
    from trustsnn.attacks.square import Square
    from trustsnn.attacks.transfer import Transfer

_lazy = lazy_names(
    __name__,
    {
        "APGD": "apgd",
        "Attack": "base",
        "AttackResult": "base",
        "BudgetCurve": "curves",
        "CW": "cw",
        "Curve": "curves",
        "DeepFool": "deepfool",
        "EpsCurve": "curves",
        "FGSM": "fgsm",
        "MIFGSM": "momentum",
        "PGD": "pgd",
        "PGD0": "pgd0",
        "RFGSM": "fgsm",
        "SAPGD": "sapgd",
        "SmallestEps": "budgets",
        "Square": "square",
        "Transfer": "transfer",
        "restarts_curve": "budgets",
        "robust_curve": "curves",
        "smallest_eps": "budgets",
        "steps_curve": "budgets",
    },
)

__all__ = [
    "APGD",
    "ATTACKS",
    "Attack",
    "AttackResult",
    "BudgetCurve",
    "CW",
    "Curve",
    "DeepFool",
    "EpsCurve",
    "FGSM",
    "MIFGSM",
    "PGD",
    "PGD0",
    "RFGSM",
    "SAPGD",
    "SmallestEps",
    "Square",
    "Transfer",
    "restarts_curve",
    "robust_curve",
    "smallest_eps",
    "steps_curve",
]


def __getattr__(name: str) -> Any:
    return _lazy(name)
