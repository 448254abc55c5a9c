"""What an audit is of, as plain values for run.json: its settings, its model and its data."""

from __future__ import annotations

from typing import Any

from torch import nn

from trustsnn.blocks import BLOCK
from trustsnn.data import Dataset
from trustsnn.models.spec import ModelSpec
from trustsnn.runners.config import AuditConfig


def config_record(config: AuditConfig, domain: str, command: str | None) -> dict[str, Any]:
    """The settings that decide the figures, as resolved for a model of that domain. The batch size and the memory do not, and
    gates have their own place."""
    record = config.model_dump(mode="json", exclude={"batch_size", "memory", "gates"})
    record["norms"], record["eps"] = map(list, config.threats(domain))
    record["corruptions"] = list(config.resolved_corruptions(domain))
    record["attacks"] = [item.model_dump(mode="json") for item in config.resolved_attacks(domain)]
    return {**record, "block": BLOCK, "command": command}


def model_record(model: nn.Module, spec: ModelSpec, digest: str) -> dict[str, Any]:
    """The model by name, hash, size and spec."""
    architecture = getattr(model, "architecture", None)
    inner = getattr(model, "module", model)
    return {
        "name": architecture["name"] if architecture else type(inner).__name__,
        "hash": digest,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "spec": spec.to_dict(),
    }


def data_record(data: Dataset) -> dict[str, Any]:
    """The audited samples by name, hashes and count."""
    return {
        "name": data.name,
        "split": data.split,
        "sha256": data.sha256,
        "samples_sha256": data.samples_sha256,
        "count": len(data),
        "classes": list(data.classes),
    }
