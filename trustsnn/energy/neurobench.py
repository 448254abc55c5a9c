"""The metrics of NeuroBench (Yik 2023, arXiv 2304.04640) by its keys.

They agree with NeuroBench 2.3.0 on the same network where it is right. Where they do not:

- NeuroBench takes a layer for accumulating if all that one call feeds it is exactly 0, 1 or -1. Spikes that a constant scales are
  multiplications to it; here they are additions, since the constant is folded into the weights. A call is a batch there, so that its
  figures depend on the batch size: a batch with no more than 0 and 1 in it makes additions of a layer that gets averages.
  Here a layer accumulates if it does so for every sample.
- It adds up in float32, which is exact up to 2^24 operations a layer and call; here in float64.
- It does not see attention, whose factors are both activations. It is reported by itself here, under "attention".
- It knows snnTorch's neurons and counts a membrane's update against what the neuron object holds, which with `reset_delay` is the
  membrane before the reset; here it is what a step leaves to the next.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from trustsnn.energy.counts import Counts
from trustsnn.energy.means import mean
from trustsnn.energy.operations import WEIGHTED

OPERATIONS = 4  # of a leaky integrate-and-fire neuron whose membrane changes: leak, input, comparison, reset; as in NeuroBench


def metrics(counts: Counts) -> dict[str, Any]:
    """Plain values by NeuroBench's keys. Operations, updates and neuron operations are means over the samples."""
    model, samples = counts.model, len(counts.ids)
    known = [layer.updates.sum() for layer in counts.neurons if layer.updates is not None]
    whole = len(known) == len(counts.neurons) > 0
    updates = float(sum(known)) / samples if whole else None
    return {
        "Footprint": footprint(model),
        "ConnectionSparsity": connection_sparsity(model),
        "ParameterCount": sum(parameter.numel() for parameter in model.parameters()),
        "ClassificationAccuracy": counts.accuracy["value"],
        "ActivationSparsity": 1 - float(counts.spikes.mean()) / counts.places if counts.places else None,
        "SynapticOperations": {
            "Effective_MACs": float(counts.macs.mean()),
            "Effective_ACs": float(counts.acs.mean()),
            "Dense": counts.dense,
        },
        "MembraneUpdates": updates,
        "NeuronOperations": {
            "Effective Neuron Ops": None if updates is None else OPERATIONS * updates,
            "Neuron Dense Ops": OPERATIONS * counts.places if whole else None,
        },
    }


def intervals(counts: Counts) -> dict[str, Any]:
    """The metrics that are means over samples or proportions of them, as figures with a 95 % interval and a count."""
    found: dict[str, Any] = {
        "ClassificationAccuracy": dict(counts.accuracy),
        "Effective_MACs": mean(counts.macs),
        "Effective_ACs": mean(counts.acs),
    }
    if counts.places:
        found["ActivationSparsity"] = mean(1 - counts.spikes / counts.places)
    updates = [layer.updates for layer in counts.neurons if layer.updates is not None]
    if updates and len(updates) == len(counts.neurons):
        found["MembraneUpdates"] = mean(sum(updates))
    return found


def footprint(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))


def connection_sparsity(model: nn.Module) -> float:
    """The share of the weights of convolutions and linear layers that are 0."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, WEIGHTED)]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / total if total else 0.0
