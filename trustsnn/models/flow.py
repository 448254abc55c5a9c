"""What each layer with weights is fed with, by a network's structure: spikes, or something that costs a multiplication."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import nn

from trustsnn.models.branches import MERGES, Branches
from trustsnn.models.gates import Gate
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.onestep import ProjectedNeuron, WindowCell
from trustsnn.models.onestep_rnn import Sweep
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.synapses import Synapses

Kind = Literal["spikes", "averages", "encoder", "sums", "real"]

_PASSING = (Gate, nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)  # 0 and 1 in, 0 and 1 out
_BINARY_CODES = ("poisson", "latency", "rank-order")


class Flow(NamedTuple):
    """What flows into a layer: "spikes" (0 and 1), "averages" of spikes over a window (each spike adds a fixed share of a
    weight), what the "encoder" gives, "sums" of spikes (whole numbers), or other "real" values; `what` says it in words."""

    kind: Kind
    what: str


SPIKES = Flow("spikes", "spikes")


def inputs_of(network: SpikingNetwork) -> dict[str, Flow]:
    """The input of each convolution, linear layer and attention of a network, by its name, after the network's structure. It
    holds whatever the weights and the data: a sum of spikes that happens to be 0 or 1 is a sum of spikes."""
    found: dict[str, Flow] = {}
    spec = network.spec
    binary = spec.encoder in _BINARY_CODES or spec.domain == "events-binary"
    coded = SPIKES if binary else Flow("encoder", f"what the encoder {spec.encoder!r} gives")
    _walk(network.layers, "layers.", coded, found)
    return found


def _walk(layers: nn.Module, prefix: str, flow: Flow, found: dict[str, Flow]) -> Flow:
    for key, layer in layers.named_children():
        name = prefix + key
        if isinstance(layer, SpikingNeuron):
            flow = SPIKES if layer.binary else Flow("real", f"activations of {name} ({type(layer).__name__})")
        elif isinstance(layer, Branches):
            flow = _merged(
                layer, name, [_walk(branch, f"{name}.{k}.", flow, found) for k, branch in layer.named_children()], found
            )
        elif isinstance(layer, WindowCell):
            flow = _cell(layer, name, flow, found)
        elif Synapses.can(layer):
            found[name] = flow
            flow = Flow("real", f"currents of {name}")
        elif isinstance(layer, nn.AvgPool2d) and flow.kind in ("spikes", "averages"):
            flow = Flow("averages", f"averages of spikes ({name})")
        elif isinstance(layer, Sweep):
            found[name] = flow = Flow("real", f"gates of an LSTM, which multiply real values ({name})")
        elif isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            found[name] = flow = Flow(
                "real", f"currents, which {type(layer).__name__} divides by their spread in each sample ({name})"
            )
        elif not (isinstance(layer, _PASSING) or (isinstance(layer, nn.Upsample) and layer.mode == "nearest")):
            flow = Flow("real", f"what {type(layer).__name__} gives ({name})")
    return flow


def _cell(cell: WindowCell, name: str, flow: Flow, found: dict[str, Flow]) -> Flow:
    """The layers of a one-step network's cell, and what it gives."""
    _walk(cell.currents[0], f"{name}.currents.0.", flow, found)
    _walk(cell.currents[1], f"{name}.currents.1.", SPIKES, found)
    if isinstance(cell.second, ProjectedNeuron):
        found[f"{name}.second"] = Flow("real", f"membranes of {name}.first, beside its current")
    return Flow("averages", f"averages of spikes where the windows of {name} overlap") if cell.dilated else SPIKES


def _merged(branches: Branches, name: str, flows: list[Flow], found: dict[str, Flow]) -> Flow:
    if branches.how == "attention":
        found[name] = Flow("real", "products of attention: Q K^T, whole numbers, times V")
        return Flow("real", f"products of attention ({name})")
    if MERGES[branches.how].spikes and all(flow.kind == "spikes" for flow in flows):
        return SPIKES
    if all(flow.kind in ("spikes", "sums") for flow in flows):
        return Flow("sums", f"sums of spikes ({name}, {branches.how})")
    return Flow("real", f"currents ({name}, {branches.how})")
