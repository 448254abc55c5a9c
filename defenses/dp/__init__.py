"""Differentially private training of spiking networks, the check of its sensitivity, and a lower bound on its eps from one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.defenses.dp.audit import OneRunAudit, eps_lower_bound, noise_canaries, one_run_audit
    from trustsnn.defenses.dp.gradients import naive_gradients, per_sample_gradients
    from trustsnn.defenses.dp.privacy import Guarantee, PrivacyConfig, epsilon, noise_for
    from trustsnn.defenses.dp.train import train_private
    from trustsnn.defenses.dp.verifier import Verification, verify

_NAMES = {
    "Guarantee": "privacy",
    "OneRunAudit": "audit",
    "PrivacyConfig": "privacy",
    "Verification": "verifier",
    "eps_lower_bound": "audit",
    "epsilon": "privacy",
    "naive_gradients": "gradients",
    "noise_canaries": "audit",
    "noise_for": "privacy",
    "one_run_audit": "audit",
    "per_sample_gradients": "gradients",
    "train_private": "train",
    "verify": "verifier",
}
_lazy = lazy_names(__name__, _NAMES)

__all__ = [
    "Guarantee", "OneRunAudit", "PrivacyConfig", "Verification", "eps_lower_bound", "epsilon", "naive_gradients", "noise_canaries",
    "noise_for", "one_run_audit", "per_sample_gradients", "train_private", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    return _lazy(name)
