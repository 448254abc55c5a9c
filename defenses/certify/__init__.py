"""Certificates: radii around a sample within which no input changes the class, and a checker of the files that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustsnn.lazy import lazy_names

if TYPE_CHECKING:
    from trustsnn.defenses.certify.again import check_again
    from trustsnn.defenses.certify.checker import check, read
    from trustsnn.defenses.certify.curve import certified_accuracy
    from trustsnn.defenses.certify.rate import Rate
    from trustsnn.defenses.certify.record import certify, write
    from trustsnn.defenses.certify.smoothing import Smoothing
    from trustsnn.defenses.certify.training import S_IBP, GaussianNoise
    from trustsnn.defenses.certify.verified import Verified

_lazy = lazy_names(
    __name__,
    {
        "GaussianNoise": "training",
        "Rate": "rate",
        "S_IBP": "training",
        "Smoothing": "smoothing",
        "Verified": "verified",
        "certified_accuracy": "curve",
        "certify": "record",
        "check": "checker",
        "check_again": "again",
        "read": "checker",
        "write": "record",
    },
)

__all__ = [
    "GaussianNoise",
    "Rate",
    "S_IBP",
    "Smoothing",
    "Verified",
    "certified_accuracy",
    "certify",
    "check",
    "check_again",
    "read",
    "write",
]


def __getattr__(name: str) -> Any:
    return _lazy(name)
