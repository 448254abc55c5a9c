"""What bit-serial conversion costs beside a bit-serial quantised network: steps, operations and energy, layer by layer.

    python benchmarks/bitserial.py
    python benchmarks/bitserial.py --train 10000 --samples 200

The quantised network is the ANN itself: its levels in 0..2^T - 1 are T-bit numbers, and its operations are counted from the bits of
these integers. Those of the spiking network are counted from its spikes. Energy is that of arithmetic alone, by Horowitz (ISSCC
2014, 45 nm, 0.9 V); neither weights nor sums that are read and written are counted, nor control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import prod
from typing import NamedTuple

import torch
from conversion import arguments, sets_of, trained
from harness import begin, options
from report import Report
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d

from trustsnn.blocks import frozen
from trustsnn.conversion import convert
from trustsnn.conversion.segments import Segment, batches, current, segments
from trustsnn.data import Dataset
from trustsnn.energy.operations import meetings
from trustsnn.models import SpikingNetwork
from trustsnn.neurons.qcfs import QCFS
from trustsnn.neurons.synapses import Synapses
from trustsnn.training import accuracy

ADD32, FLOAT_ADD, FLOAT_PRODUCT = 0.1, 0.9, 3.7  # pJ
PRODUCT8 = 0.2  # of two 8-bit integers; of b bits with 8 taken as b/8 of it
PIXEL_BITS = 8


class Layer(NamedTuple):
    """Of one sample, means: neurons that fire, products of weights with every input, with every input that is not 0, and additions of
    bits that are not 0: `active` where each bit before an average pooling adds its share of a weight, `pooled` where the sums of
    the pooling, of `planes` bits, are multiplied bit by bit. `analog`: the inputs are pixels."""

    name: str
    analog: bool
    neurons: int
    dense: float
    nonzero: float
    active: float
    pooled: float
    planes: int


class Cost(NamedTuple):
    """Of one sample: operations, and picojoules in floating point (None where that makes no sense) and with integers."""

    products: float
    additions: float
    firing: float
    floating: float | None
    integer: float


def main() -> None:
    """For each number of levels: one table of networks, one of layers."""
    parser = options(__doc__.splitlines()[0])
    arguments(parser)
    parser.add_argument("--samples", type=int, default=1000, help="test images (default %(default)s)")
    given = begin(parser)
    data, test = sets_of(given)
    part = test.take(given.samples)
    report = Report(f"Bit-serial conversion and its baseline: {given.network} on {given.data}, {len(part)} test images", given)
    for levels in given.levels:
        ann = trained(given, data, levels, 0.0)
        quantised, ours = count(ann, part, levels), count(convert(ann), part)
        raw = {"quantised": quantised, "spiking": ours}
        report.table(f"L = {levels}: networks", NETWORKS, networks(ann, part, given.steps, quantised, ours), _STEPS, raw)
        report.table(f"L = {levels}: layers", LAYERS, layers(levels.bit_length(), quantised, ours), _LAYERS)


NETWORKS = ("", "correct", "steps", "products", "additions", "operations to fire", "floating point", "integers, 8-bit weights")
_STEPS = """Of one sample: means. Steps: turns of the hardware if a layer does one bit, or one time step, in a turn; bit by bit, a layer waits
for all bits of the one before, and sums of an average pooling have more bits. The rate-coded network is a pipeline, whose layers work at
the same time.""".replace("\n", " ")
LAYERS = (
    "before",
    "steps",
    "additions",
    "of the quantised network",
    "its steps with sums of the pooling",
    "its additions",
    "neurons",
)
_LAYERS = "Bits of 0 left out. The first layer reads pixels, in one step."


def networks(ann: SpikingNetwork, test: Dataset, rates: list[int], quantised: list[Layer], ours: list[Layer]) -> list[list[str]]:
    """A row for each way to compute the network."""
    spiking = convert(ann)
    bits, deep = spiking.spec.steps, len(quantised) - 1
    right, pooled = correct(ann, test), turns(quantised)
    rows = [
        _row(right, "ANN, every product", 1 + deep, dense(quantised)),
        _row(right, "ANN, products with 0 left out", 1 + deep, parallel(quantised, None)),
        _row(right, f"quantised network, {bits}-bit activations at once", 1 + deep, parallel(quantised, bits)),
        _row(right, "quantised network bit by bit, every bit", pooled, serial(quantised, lambda x: x.dense * x.planes)),
        _row(right, "the same, bits of 0 left out", pooled, serial(quantised, lambda x: x.pooled)),
        _row(right, "the same, without sums of the pooling", 1 + bits * deep, serial(quantised, lambda x: x.active)),
        _row(correct(spiking, test), f"bit-serial spiking network, T = {bits}", 1 + bits * deep, spikes(ours, bits)),
    ]
    for steps in rates:
        rate = convert(ann, "rate", steps=steps)
        name = f"rate-coded spiking network, T = {steps}"
        rows.append(_row(correct(rate, test), name, steps, spikes(count(rate, test), steps)))
    return rows


def layers(bits: int, quantised: list[Layer], ours: list[Layer]) -> list[list[str]]:
    """A row for each layer with weights."""
    rows = [[ours[0].name, "1", "pixels", "pixels", "1", "pixels", f"{ours[0].neurons:,}"]]
    for place, (theirs, mine) in enumerate(zip(quantised[1:], ours[1:], strict=True)):
        added = [f"{each:,.0f}" for each in (mine.active, theirs.active)]
        turns_of = f"{2 + place * bits} to {1 + (place + 1) * bits}"
        rows.append([mine.name, turns_of, *added, str(theirs.planes), f"{theirs.pooled:,.0f}", f"{mine.neurons:,}"])
    return rows


def count(network: SpikingNetwork, data: Dataset, levels: int | None = None) -> list[Layer]:
    """The operations of each layer of a network, means over `data`: of a QCFS network with `levels` from the bits of its levels, and
    otherwise from the spikes."""
    with frozen(network), torch.no_grad():
        parts = segments(network)
        sums = torch.zeros(len(parts), 4, dtype=torch.float64)
        neurons, planes = [0] * len(parts), [1] * len(parts)
        for x, _ in batches(data, next(network.parameters())):
            h, values, fired = x, x, x
            for place, part in enumerate(parts):
                drive = current(part.stages, h, spikes=False)
                sums[place, 0] += products(part, torch.ones_like(values), _not_zero)[0]
                sums[place, 1] += products(part, values, _not_zero)[0]
                if place:
                    sums[place, 2] += products(part, fired, _each)[0]
                    if levels is not None:
                        sums[place, 3], area = sums[place, 3] + (found := products(part, values, _ones))[0], found[1]
                        planes[place] = (area * levels).bit_length()
                if part.neuron is None:
                    continue
                neurons[place] = drive[0, 0].numel()
                h = part.neuron.unroll(drive, network.spec.steps)[0]
                values = h.sum(0, keepdim=True) if levels is None else level(part.neuron, drive)
                fired = h if levels is None else bits_of(values[0], levels.bit_length())
    columns = (sums / len(data)).T.tolist()
    return [
        Layer(part.name, place == 0, neurons[place], *(column[place] for column in columns), planes[place])
        for place, part in enumerate(parts)
    ]


def products(part: Segment, signal: Tensor, weigh: Callable[[Tensor], Tensor]) -> tuple[float, int]:
    """How often an input of `signal` [T, B, ...] meets a weight of the segment, each input weighed, and over how many inputs its
    average pooling goes. What comes to the weights are the pooling's sums."""
    h, area = signal.flatten(0, 1).to(torch.float64), 1
    for _, stage in part.stages:
        if isinstance(stage, Synapses):
            images = weigh(h)[:, :, None, None] if stage.flat else weigh(h)
            convolve = partial(conv2d, bias=None, **asdict(stage.geometry))
            return float(meetings(images, torch.ones_like(stage.weight), stage.geometry.groups, convolve).sum()), area
        if isinstance(stage, nn.AvgPool2d):
            h = avg_pool2d(h, stage.kernel_size, stage.stride, stage.padding, divisor_override=1)
            area *= prod(stage.kernel_size) if isinstance(stage.kernel_size, tuple) else stage.kernel_size**2
        else:
            h = stage(h)  # type: ignore[operator]
    raise SystemExit(f"There are no weights before {part.name}.")


def _not_zero(h: Tensor) -> Tensor:
    return (h != 0).to(h.dtype)


def _each(h: Tensor) -> Tensor:
    return h


def _ones(h: Tensor) -> Tensor:
    """The bits of whole numbers that are 1."""
    left, found = h.to(torch.int64), torch.zeros_like(h)
    while bool(left.any()):
        found += left & 1
        left = left >> 1
    return found


def level(neuron: object, drive: Tensor) -> Tensor:
    """The integers that a QCFS layer gives for its current."""
    assert isinstance(neuron, QCFS)
    return neuron.level(drive).to(torch.int64)


def bits_of(levels: Tensor, bits: int) -> Tensor:
    """Planes [T, B, ...] of 0 and 1, the most significant first."""
    return torch.stack([(levels >> place) & 1 for place in reversed(range(bits))]).to(torch.float32)


def correct(network: SpikingNetwork, data: Dataset) -> str:
    """The share of right classes with its interval."""
    found = accuracy(network, data)
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def turns(layers: list[Layer]) -> int:
    """Steps of a network whose layers work bit by bit on the sums of the pooling before them; pixels take one."""
    return 1 + sum(layer.planes for layer in layers if not layer.analog)


def _pixels(layers: list[Layer]) -> tuple[float, float, float]:
    """Products of the first layer, and their picojoules in floating point and with integers; the same for every network."""
    found = sum(layer.dense for layer in layers if layer.analog)
    return found, found * (FLOAT_ADD + FLOAT_PRODUCT), found * _product(PIXEL_BITS)


def _product(bits: int) -> float:
    return PRODUCT8 * bits / 8 + ADD32


def _rounding(layers: list[Layer]) -> float:
    """Additions and comparisons that round and clip each neuron's sum: + 1/2, the floor being a shift, and two borders."""
    return 3.0 * sum(layer.neurons for layer in layers)


def dense(layers: list[Layer]) -> Cost:
    """Every product, with 8-bit integers or in floating point."""
    found = sum(layer.dense for layer in layers)
    return Cost(found, 0, _rounding(layers), found * (FLOAT_ADD + FLOAT_PRODUCT), found * _product(8) + _rounding(layers) * ADD32)


def parallel(layers: list[Layer], bits: int | None) -> Cost:
    """Products with activations that are not 0, of `bits` bits; None for numbers in floating point, or of 8 bits."""
    pixels, floating, integer = _pixels(layers)
    found = sum(layer.nonzero for layer in layers if not layer.analog)
    energy = integer + found * _product(bits or 8) + _rounding(layers) * ADD32
    whole = None if bits else floating + found * (FLOAT_ADD + FLOAT_PRODUCT)
    return Cost(pixels + found, 0, _rounding(layers), whole, energy)


def serial(layers: list[Layer], additions: Callable[[Layer], float]) -> Cost:
    """Additions alone; the doubling of a sum is a shift."""
    pixels, floating, integer = _pixels(layers)
    found, firing = sum(additions(layer) for layer in layers if not layer.analog), _rounding(layers)
    return Cost(pixels, found, firing, floating + (found + firing) * FLOAT_ADD, integer + (found + firing) * ADD32)


def spikes(layers: list[Layer], steps: int) -> Cost:
    """An addition for each spike; to fire, each neuron compares and subtracts at each step."""
    pixels, floating, integer = _pixels(layers)
    found = sum(layer.active for layer in layers if not layer.analog)
    firing = 2.0 * steps * sum(layer.neurons for layer in layers)
    return Cost(pixels, found, firing, floating + (found + firing) * FLOAT_ADD, integer + (found + firing) * ADD32)


def _row(right: str, name: str, steps: int, cost: Cost) -> list[str]:
    floating = "" if cost.floating is None else f"{cost.floating / 1e6:.2f} uJ"
    operations = [f"{each:,.0f}" for each in cost[:3]]
    return [name, right, str(steps), *operations, floating, f"{cost.integer / 1e6:.2f} uJ"]


if __name__ == "__main__":
    main()
