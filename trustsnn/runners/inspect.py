"""What a model is, as lines for a person."""

from __future__ import annotations

from pathlib import Path

from trustsnn.checkpoint import model_hash
from trustsnn.neurons import SpikingNeuron
from trustsnn.runners.resolve import resolve_model


def describe_model(model: str, weights: Path | None = None) -> list[str]:
    """Specification, hash, and every layer with its parameters."""
    network = resolve_model(model, weights)
    lines = [f"{key}: {value}" for key, value in network.spec.to_dict().items()]  # type: ignore[union-attr, operator]
    lines.append(f"hash: {model_hash(network)}")
    total = sum(parameter.numel() for parameter in network.parameters())
    neurons = sum(isinstance(module, SpikingNeuron) for module in network.modules())
    lines.append(f"parameters: {total:,} in all; spiking layers: {neurons}")
    for name, module in network.named_modules():
        if not list(module.children()):
            count = sum(parameter.numel() for parameter in module.parameters())
            lines.append(f"  {name}: {module}{f', {count:,} parameters' if count else ''}")
    return lines
