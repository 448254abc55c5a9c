"""Integrity attacks: what is left of a model whose weights, neurons or parameters are not what they were, by accident or on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.integrity.bitflips import BitFlips, BitFlipSearch, random_flips
    from trustsnn.attacks.integrity.faults import FAULTS, fault_curve
    from trustsnn.attacks.integrity.sponge import Sponge
    from trustsnn.attacks.integrity.tampering import parameter_sweep

_lazy = lazy_names(
    __name__,
    {
        "FAULTS": "faults",
        "BitFlipSearch": "bitflips",
        "BitFlips": "bitflips",
        "Sponge": "sponge",
        "fault_curve": "faults",
        "parameter_sweep": "tampering",
        "random_flips": "bitflips",
    },
)

__all__ = ["FAULTS", "BitFlipSearch", "BitFlips", "Sponge", "fault_curve", "parameter_sweep", "random_flips"]


def __getattr__(name: str) -> Any:
    return _lazy(name)
