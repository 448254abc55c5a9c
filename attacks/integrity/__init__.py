"""Integrity attacks: what is left of a model whose weights, neurons or parameters are not what they were, by accident or on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.integrity.backdoor import poisoned, success, triggered
    from trustsnn.attacks.integrity.bitflips import BitFlips, BitFlipSearch, random_flips
    from trustsnn.attacks.integrity.catalogue import TRIGGERS
    from trustsnn.attacks.integrity.faults import FAULTS, fault_curve
    from trustsnn.attacks.integrity.scan import Scan
    from trustsnn.attacks.integrity.sponge import Sponge
    from trustsnn.attacks.integrity.tampering import parameter_sweep
    from trustsnn.attacks.integrity.triggers import trigger

_lazy = lazy_names(
    __name__,
    {
        "FAULTS": "faults",
        "BitFlipSearch": "bitflips",
        "BitFlips": "bitflips",
        "Scan": "scan",
        "Sponge": "sponge",
        "TRIGGERS": "catalogue",
        "fault_curve": "faults",
        "parameter_sweep": "tampering",
        "poisoned": "backdoor",
        "random_flips": "bitflips",
        "success": "backdoor",
        "trigger": "triggers",
        "triggered": "backdoor",
    },
)

__all__ = [
    "FAULTS", "TRIGGERS", "BitFlipSearch", "BitFlips", "Scan", "Sponge", "fault_curve", "parameter_sweep", "poisoned", "random_flips", "success",
    "trigger", "triggered",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    return _lazy(name)
