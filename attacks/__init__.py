"""Attacks on spiking networks, and what tells whether an evaluation by them can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.attacks.catalogue import ATTACKS
from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.apgd import APGD
    from trustsnn.attacks.base import Attack, AttackResult
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
        "CW": "cw",
        "DeepFool": "deepfool",
        "FGSM": "fgsm",
        "MIFGSM": "momentum",
        "PGD": "pgd",
        "PGD0": "pgd0",
        "RFGSM": "fgsm",
        "SAPGD": "sapgd",
        "Square": "square",
        "Transfer": "transfer",
    },
)

__all__ = [
    "APGD",
    "ATTACKS",
    "Attack",
    "AttackResult",
    "CW",
    "DeepFool",
    "FGSM",
    "MIFGSM",
    "PGD",
    "PGD0",
    "RFGSM",
    "SAPGD",
    "Square",
    "Transfer",
]


def __getattr__(name: str) -> Any:
    return _lazy(name)
