"""Leakage attacks: what a model gives away of the data that it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.leakage.class_representation import ClassRepresentation, Representations
    from trustsnn.attacks.leakage.judge import ClassLeakage, Judge

_lazy = lazy_names(
    __name__,
    {
        "ClassLeakage": "judge",
        "ClassRepresentation": "class_representation",
        "Judge": "judge",
        "Representations": "class_representation",
    },
)

__all__ = ["ClassLeakage", "ClassRepresentation", "Judge", "Representations"]


def __getattr__(name: str) -> Any:
    return _lazy(name)
