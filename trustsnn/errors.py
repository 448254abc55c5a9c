"""The error taxonomy. Every message says what was expected, what was got, where, and how to mend it."""

from __future__ import annotations


class TrustSNNError(Exception):
    """Root of every error that trustsnn raises on purpose. `exit_code` is what the command line returns for it."""

    exit_code = 2


class ConfigError(TrustSNNError):
    """A setting, an argument or a configuration file is wrong."""


class DataError(TrustSNNError):
    """A data set is missing, truncated, corrupt or out of its declared range."""


class ModelContractError(TrustSNNError):
    """A model does not keep the contract that an audit relies on (shape of the logits, no state between forwards...)."""


class RunError(TrustSNNError):
    """A run folder cannot be used: it belongs to another run, or it cannot be written."""


class PrivacyBudgetError(TrustSNNError):
    """What is asked for would spend more privacy than the budget allows."""


class ProtocolError(TrustSNNError):
    """A message between parties is malformed, altered, replayed, out of turn or from the wrong one, or too few of them answered."""


class InconclusiveError(TrustSNNError):
    """An evaluation cannot be trusted."""

    exit_code = 3


class UnsafeArtifactError(TrustSNNError):
    """A file is truncated, altered, or of a kind that could run code when it is read (pickle)."""

    exit_code = 4


class MissingExtraError(TrustSNNError):
    """An optional package is needed. The message names the install command."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}', which is not installed. Install it with: {install}")
