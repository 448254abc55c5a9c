"""Flower, imported where it is needed and kept from calling anyone."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from trustsnn.errors import MissingExtraError

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of every process of Flower and Ray: no telemetry, no look for updates, nothing installed."""


def flower(module: str) -> Any:
    """The module `flwr.<module>`, with telemetry and updates off in this process.

    Raises:
        MissingExtraError: Flower is not installed.
    """
    os.environ.update({name: value for name, value in OFFLINE.items() if name not in os.environ})
    try:
        return import_module(f"flwr.{module}")
    except ImportError as error:
        raise MissingExtraError("flwr", "Federated training", "pip install 'trustsnn[federated]'") from error
