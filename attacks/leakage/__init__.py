"""Leakage attacks: what a model gives away of the data that it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.leakage.brainleaks import BrainLeaksV1, BrainLeaksV2
    from trustsnn.attacks.leakage.class_attack import ClassAttack, Representations
    from trustsnn.attacks.leakage.class_representation import ClassRepresentation
    from trustsnn.attacks.leakage.judge import ClassLeakage, Judge

_lazy = lazy_names(
    __name__,
    {
        "BrainLeaksV1": "brainleaks",
        "BrainLeaksV2": "brainleaks",
        "ClassAttack": "class_attack",
        "ClassLeakage": "judge",
        "ClassRepresentation": "class_representation",
        "Judge": "judge",
        "Representations": "class_attack",
    },
)

__all__ = [
    "BrainLeaksV1",
    "BrainLeaksV2",
    "ClassAttack",
    "ClassLeakage",
    "ClassRepresentation",
    "Judge",
    "Representations",
]


def __getattr__(name: str) -> Any:
    return _lazy(name)
