"""Attacks on models of event frames [B, T, 2, H, W], the filters that they must pass, and their curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.attacks.events.base import EventAttack, EventResult
    from trustsnn.attacks.events.curve import success_curve
    from trustsnn.attacks.events.dvs import CornerAttack, DashAttack, FilterAwareDash, FrameAttack
    from trustsnn.attacks.events.filters import Filtered, background_activity, mask
    from trustsnn.attacks.events.greedy import Deletion, Insertion
    from trustsnn.attacks.events.patch import EventPatch, UniversalPatch
    from trustsnn.attacks.events.retiming import Retiming
    from trustsnn.attacks.events.sda import SDA
    from trustsnn.attacks.events.spikefool import SpikeFool

_NAMES = {
    "CornerAttack": "dvs",
    "DashAttack": "dvs",
    "Deletion": "greedy",
    "EventAttack": "base",
    "EventPatch": "patch",
    "EventResult": "base",
    "FilterAwareDash": "dvs",
    "Filtered": "filters",
    "FrameAttack": "dvs",
    "Insertion": "greedy",
    "Retiming": "retiming",
    "SDA": "sda",
    "SpikeFool": "spikefool",
    "UniversalPatch": "patch",
    "background_activity": "filters",
    "mask": "filters",
    "success_curve": "curve",
}
_lazy = lazy_names(__name__, _NAMES)

__all__ = [
    "SDA",
    "CornerAttack",
    "DashAttack",
    "Deletion",
    "EventAttack",
    "EventPatch",
    "EventResult",
    "FilterAwareDash",
    "Filtered",
    "FrameAttack",
    "Insertion",
    "Retiming",
    "SpikeFool",
    "UniversalPatch",
    "background_activity",
    "mask",
    "success_curve",
]


def __getattr__(name: str) -> Any:
    return _lazy(name)
