"""From counted operations to energy, latency and memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustsnn.energy.conventions import PRECISIONS, Work, spiking
from trustsnn.energy.counts import Counts
from trustsnn.energy.tally import LayerCounts


def work_of(counts: Counts, *, additions: bool = False) -> list[Work]:
    """What each layer does for one inference, means over the samples. With `additions` a layer behind an average pooling of spikes adds a
    share of a weight for each spike, in place of multiplying by the average."""
    everyone = np.ones(len(counts.ids), dtype=bool)
    return _rows(counts, everyone, additions)


def by_sample(counts: Counts, precision: str = "int8", *, memory: bool = False, additions: bool = False) -> NDArray[np.float64]:
    """Microjoules of each sample."""
    one = np.eye(len(counts.ids), dtype=bool)
    found = [spiking(_rows(counts, row, additions), precision, memory) for row in one]
    return np.array(found) / 1e6


def _rows(counts: Counts, rows: NDArray[np.bool_], additions: bool) -> list[Work]:
    """The layers with weights and attentions, then the layers of neurons, means over some of the samples."""
    neurons = [Work(each.name, 0.0, 0.0, 0.0, 0.0, 0, each.neurons, each.neurons, each.places) for each in counts.neurons]
    return [*(_work(layer, rows, additions) for layer in counts.layers), *neurons]


def _work(layer: LayerCounts, rows: NDArray[np.bool_], additions: bool) -> Work:
    adds = layer.accumulates or (additions and layer.additions is not None)
    done = layer.additions if additions and layer.additions is not None and not layer.accumulates else layer.effective
    operations = float(done[rows].mean())
    return Work(
        layer.name,
        macs=0.0 if adds else operations,
        acs=operations if adds else 0.0,
        dense=layer.dense / layer.calls,
        once=float(layer.once[rows].mean()),
        weights=layer.weights,
        inputs=layer.inputs // layer.calls,
        outputs=layer.outputs,
        neuron_steps=0,
    )


def latency(counts: Counts) -> list[dict[str, Any]]:
    """Of each layer the operations that a core of its own has to do one after the other for a sample: mean and most over the samples,
    and its share of all. The largest is the bottleneck of a chip with a core a layer, their sum the latency with one core."""
    total = sum(float(layer.effective.mean()) for layer in counts.layers)
    return [
        {
            "layer": layer.name,
            "operations": float(layer.effective.mean()),
            "most": float(layer.effective.max()),
            "share": float(layer.effective.mean()) / total if total else 0.0,
            "calls": layer.calls,
        }
        for layer in counts.layers
    ]


def memory(counts: Counts) -> list[dict[str, Any]]:
    """Bytes of each layer's weights at each precision, and of the membranes or sums of its outputs at 32 bits."""
    return [
        {
            "layer": layer.name,
            "weights": layer.weights,
            "bytes": {name: layer.weights * bits // 8 for name, bits in PRECISIONS.items()},
            "state_bytes": 4 * layer.outputs,
        }
        for layer in counts.layers
    ]
