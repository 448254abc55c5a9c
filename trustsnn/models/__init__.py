"""Bundled spiking networks, their specification and the contract that any audited model keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names
from trustsnn.models.catalogue import MODELS

if TYPE_CHECKING:
    from trustsnn.models.contract import check_contract
    from trustsnn.models.network import READOUTS, SpikingNetwork
    from trustsnn.models.spec import Domain, ModelSpec, Trace
    from trustsnn.models.zoo import build, rebuild

_NAMES = {
    "Domain": "spec",
    "ModelSpec": "spec",
    "READOUTS": "network",
    "SpikingNetwork": "network",
    "Trace": "spec",
    "build": "zoo",
    "check_contract": "contract",
    "rebuild": "zoo",
}
_lazy = lazy_names(__name__, _NAMES)

__all__ = ["MODELS", "READOUTS", "Domain", "ModelSpec", "SpikingNetwork", "Trace", "build", "check_contract", "rebuild"]


def __getattr__(name: str) -> Any:
    return _lazy(name)
