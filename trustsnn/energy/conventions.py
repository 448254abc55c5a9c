"""Energy of one inference by published tables, under several conventions. No torch.

Operations: picojoules at 45 nm and 0.9 V (Horowitz, ISSCC 2014). Memory: one access an operand, whose price grows with the memory that
the operand lies in; a memory larger than the last row is made of such banks. All of it is a model of arithmetic and memory alone:
control, routing of spikes, leakage and the clock are left out, and a chip may differ by an order of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

PRECISIONS = {"fp32": 32, "fp16": 16, "int32": 32, "int8": 8}  # bits of a weight
MAC_PJ = {"fp32": 4.6, "fp16": 1.5, "int32": 3.2, "int8": 0.23}
AC_PJ = {"fp32": 0.9, "fp16": 0.4, "int32": 0.1, "int8": 0.03}
MEMORY_PJ = ((8 << 10, 10.0), (32 << 10, 20.0), (1 << 20, 100.0))  # bytes, an access
_LEAST_STATE = 16  # bits of a membrane or a sum

CONVENTIONS = {
    "operations": "multiplications and additions of inputs and weights that are not 0, and nothing else",
    "memory": "the same, and each operand read and each sum written",
}


class Work(NamedTuple):
    """What a layer with weights, or a layer of neurons, does for one inference, means.

    macs, acs: operations. dense: of one pass without steps, zeros included; once: the same for inputs that are ever not 0.
    weights, inputs, outputs: numbers of one pass. neuron_steps: membranes that are updated, neurons times steps.
    """

    name: str
    macs: float
    acs: float
    dense: float
    once: float
    weights: int
    inputs: int
    outputs: int
    neuron_steps: int


def access(size: float) -> float:
    """Picojoules of an access to a memory of `size` bytes."""
    return next((price for limit, price in MEMORY_PJ if size <= limit), MEMORY_PJ[-1][1])


def level_bits(steps: int) -> int:
    """Bits of an activation with as many levels as spikes in T steps have numbers: ceil(log2(T + 1))."""
    return math.ceil(math.log2(steps + 1))


def quantised_mac(bits: int) -> float:
    """Picojoules of a product of an 8-bit weight with an activation of so many bits, whose multiplier is taken as bits / 8 of the 8-bit
    one, and its addition."""
    return (MAC_PJ["int8"] - AC_PJ["int8"]) * bits / 8 + AC_PJ["int8"]


def spiking(work: Sequence[Work], precision: str, memory: bool) -> float:
    """Picojoules of the spiking network. With memory, an addition reads its weight and reads and writes its sum where spikes arrive one
    by one; a multiplication reads its weight and its input and keeps its sum; each neuron reads and writes its membrane at each step."""
    total = 0.0
    for layer in work:
        total += layer.macs * MAC_PJ[precision] + layer.acs * AC_PJ[precision]
        if memory:
            weight, state, inputs = _prices(layer, precision)
            total += layer.macs * (weight + inputs) + layer.acs * (weight + 2 * state) + 2 * layer.neuron_steps * state
    return total


def dense(work: Sequence[Work], precision: str, memory: bool) -> float:
    """Picojoules of an ANN of the same layers that multiplies everything, in one pass. With memory, a product reads its weight and its
    input, and each output is written once."""
    return sum(_pass(layer, layer.dense, MAC_PJ[precision], _prices(layer, precision), memory) for layer in work)


def quantised(work: Sequence[Work], steps: int, memory: bool, *, zeros: bool) -> float:
    """Picojoules of a network with 8-bit weights that has one activation of ceil(log2(T + 1)) bits in place of T steps; inputs that are 0
    are left out unless `zeros`. The first layer, which gets the same as the spiking one, takes 8-bit inputs."""
    total = 0.0
    for place, layer in enumerate(work):
        price = quantised_mac(level_bits(steps) if place else 8)
        total += _pass(layer, layer.dense if zeros else layer.once, price, _prices(layer, "int8"), memory)
    return total


def _pass(layer: Work, products: float, price: float, prices: tuple[float, float, float], memory: bool) -> float:
    weight, state, inputs = prices
    return products * price + (products * (weight + inputs) + bool(layer.dense) * layer.outputs * state if memory else 0.0)


def _prices(layer: Work, precision: str) -> tuple[float, float, float]:
    """Of an access to the layer's weights, to its sums or membranes, and to its inputs."""
    bits = PRECISIONS[precision]
    sizes = (layer.weights * bits, layer.outputs * max(bits, _LEAST_STATE), layer.inputs * bits)
    weight, state, inputs = (access(size / 8) for size in sizes)
    return weight, state, inputs


def energies(work: Sequence[Work], steps: int) -> list[dict[str, Any]]:
    """A row for each precision and convention: microjoules of the spiking network, of the ANN that multiplies everything, and with int8 of
    the quantised network, whole and with zeros left out."""
    rows = []
    for convention in CONVENTIONS:
        for precision in PRECISIONS:
            memory = convention == "memory"
            row: dict[str, Any] = {
                "convention": convention,
                "precision": precision,
                "spiking": spiking(work, precision, memory) / 1e6,
                "dense": dense(work, precision, memory) / 1e6,
                "quantised": None,
                "quantised_sparse": None,
            }
            if precision == "int8":
                row["quantised"] = quantised(work, steps, memory, zeros=True) / 1e6
                row["quantised_sparse"] = quantised(work, steps, memory, zeros=False) / 1e6
            rows.append(row)
    return rows


def break_even(work: Sequence[Work], steps: int, memory: bool) -> float:
    """The share of inputs that are spikes at a step below which layers fed with spikes cost less with 8-bit weights than in the quantised
    network with all its zeros: of the layers that accumulate, all at one rate, the neurons' own memory included. Infinite where there
    are none."""
    fed = [layer for layer in work if layer.acs]
    budget = sum(_pass(layer, layer.dense, quantised_mac(level_bits(steps)), _prices(layer, "int8"), memory) for layer in fed)
    fixed = sum(2 * layer.neuron_steps * _prices(layer, "int8")[1] for layer in work) if memory else 0.0
    each = 0.0
    for layer in fed:
        weight, state, _ = _prices(layer, "int8")
        each += steps * layer.dense * (AC_PJ["int8"] + (weight + 2 * state if memory else 0.0))
    return max(0.0, budget - fixed) / each if each else math.inf


def tables() -> dict[str, Any]:
    """The tables that were used, plain values."""
    return {
        "operations": [{"precision": name, "mac_pj": MAC_PJ[name], "ac_pj": AC_PJ[name]} for name in PRECISIONS],
        "memory": [{"bytes": limit, "access_pj": price} for limit, price in MEMORY_PJ],
        "source": "Horowitz, ISSCC 2014, 45 nm, 0.9 V",
        "conventions": CONVENTIONS,
    }
