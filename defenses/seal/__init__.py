"""Sealed weights: a model that only a key opens, its signature, and how few bits need sealing to make the rest useless."""

from trustsnn.defenses.seal.folder import Verified, seal, unseal, verify

__all__ = ["Verified", "seal", "unseal", "verify"]
