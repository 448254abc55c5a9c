"""Interval and linear bounds once more: plain numpy on sparse matrices, one sample at a time, to be read and to be compared with.

It shares no arithmetic with `intervals` and `crown`: layers are matrices made from indices, and a line below a neuron is found by trying out
every line through two corners of its function. It does take the weights from the same frozen network.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import nn

from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.synapses import Synapses

Array = NDArray[np.float64]
_ROUNDING = 2.0**-24


class Part(NamedTuple):
    """Matrices with biases and the terms of a sum of each, and the neurons after them; the readout has none."""

    matrices: list[tuple[Any, Array, int]]
    neuron: SpikingNeuron | None


class Layer(NamedTuple):
    """Bounds on membranes [T][N] with the rounding of each step, and on spikes."""

    low: list[Array]
    high: list[Array]
    error: list[Array]
    spikes: tuple[Array, Array]


def parts_of(network: SpikingNetwork) -> list[Part]:
    """The network as matrices. Call inside `frozen(network)`."""
    parts: list[Part] = []
    matrices: list[tuple[Any, Array, int]] = []
    shape = tuple(network.spec.input_shape)
    for _, stage in network.stages():
        if isinstance(stage, SpikingNeuron):
            parts.append(Part(matrices, stage))
            matrices = []
        elif isinstance(stage, Synapses):
            weight = stage.weight.detach().double().numpy()
            g = stage.geometry
            shape = (*shape, 1, 1) if stage.flat else shape
            matrix, out = _matrix(weight, shape, g.stride, g.padding, g.dilation, g.groups)
            bias = np.zeros(len(weight)) if stage.bias is None else stage.bias.detach().double().numpy()
            matrices.append((matrix, np.repeat(bias, out[1] * out[2]), weight[0].size))
            shape = (out[0],) if stage.flat else out
        elif isinstance(stage, nn.AvgPool2d):
            high, wide = stage.kernel_size if isinstance(stage.kernel_size, tuple) else (stage.kernel_size,) * 2
            stride, padding = ((v, v) if isinstance(v, int) else tuple(v) for v in (stage.stride, stage.padding))
            matrix, shape = _matrix(
                np.full((shape[0], 1, high, wide), 1 / (high * wide)), shape, stride, padding, (1, 1), shape[0]
            )
            matrices.append((matrix, np.zeros(matrix.shape[0]), high * wide))
        elif isinstance(stage, nn.Flatten):
            shape = (int(np.prod(shape)),)
    return [*parts, Part(matrices, None)]


def _matrix(
    weight: Array, shape: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: int
) -> tuple[Any, tuple[int, ...]]:
    """A convolution of one image of `shape` as a matrix, and the shape of its result."""
    outputs, inputs, kernel_high, kernel_wide = weight.shape
    _, high, wide = shape
    kernels = (kernel_high, kernel_wide)
    rows, columns = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip((high, wide), padding, dilation, kernels, stride, strict=True)
    )
    values, places = [], []
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    for out in range(outputs):
        for channel in range(inputs):
            source = out // (outputs // groups) * inputs + channel
            for i in range(kernel_high):
                for j in range(kernel_wide):
                    up, left = y * stride[0] - padding[0] + i * dilation[0], x * stride[1] - padding[1] + j * dilation[1]
                    inside = (up >= 0) & (up < high) & (left >= 0) & (left < wide)
                    target = (out * rows + y[inside]) * columns + x[inside]
                    places.append(np.stack([target, (source * high + up[inside]) * wide + left[inside]]))
                    values.append(np.full(int(inside.sum()), weight[out, channel, i, j]))
    where = np.concatenate(places, axis=1)
    size = (outputs * rows * columns, shape[0] * high * wide)
    return sparse.csr_matrix((np.concatenate(values), (where[0], where[1])), shape=size), (outputs, rows, columns)


def margins(network: SpikingNetwork, x: Array, label: int, eps: float, *, crown: bool, refine: int) -> Array:
    """As `verified.margins`, for one image `x` [C, H, W]. Call inside `frozen(network)`."""
    parts, steps = parts_of(network), network.spec.steps
    reach = eps + 2 * _ROUNDING if eps else 0.0
    box = (np.clip(x - reach, 0, 1).ravel(), np.clip(x + reach, 0, 1).ravel())
    layers: list[Layer] = []
    spikes = ([box[0]], [box[1]])
    for place, part in enumerate(parts):
        currents = [_current(part, low, high) for low, high in zip(*spikes, strict=True)]
        if part.neuron is None:
            break
        wide = len(currents[0][0]) <= refine and crown
        layers.append(_neurons(parts, layers, place, currents, steps, box, wide))
        spikes = (list(layers[-1].spikes[0]), list(layers[-1].spikes[1]))
    found = []
    for other in range(len(currents[0][0])):
        if other != label:
            wanted = [np.zeros(len(currents[0][0])) for _ in range(steps)]
            slack = 0.0
            for coefficients, (low, high, error) in zip(wanted, currents, strict=True):
                coefficients[label], coefficients[other] = 1 / steps, -1 / steps
                most = np.maximum(abs(low), abs(high))
                slack += float(abs(coefficients) @ (error + (steps + 1) * _ROUNDING * most))
            found.append(_lower(parts, layers, len(parts) - 1, wanted, None, box, crown) - slack)
    return np.array(found)


def _current(part: Part, low: Array, high: Array) -> tuple[Array, Array, Array]:
    error = np.zeros_like(low)
    for matrix, bias, terms in part.matrices:
        positive, negative = matrix.maximum(0), matrix.minimum(0)
        share = (terms + 8) * _ROUNDING
        middle, half = (low + high) / 2, (high - low) / 2
        error = abs(matrix) @ (error + share * (abs(middle) + half)) + share * abs(bias)
        low, high = positive @ low + negative @ high + bias, positive @ high + negative @ low + bias
    return low, high, error


def _constants(neuron: SpikingNeuron) -> tuple[float, float, float, float, bool, bool]:
    leak, threshold = (float(each) for each in neuron.parameters_in_bounds())
    dynamics = neuron.dynamics
    gain = 1 - leak if dynamics.gain == "leaky" else 1.0
    return leak, threshold, gain, dynamics.initial * threshold, dynamics.reset == "hard", dynamics.comparator == ">"


def _neurons(
    parts: list[Part], layers: list[Layer], place: int, currents: list[Any], steps: int, box: Any, refine: bool
) -> Layer:
    neuron = parts[place].neuron
    assert neuron is not None
    leak, v, gain, start, hard, strict = _constants(neuron)
    here = Layer([], [], [], (np.zeros(0), np.zeros(0)))
    count = len(currents[0][0])
    left = (np.full(count, start), np.full(count, start))
    spikes: tuple[list[Array], list[Array]] = ([], [])
    for t in range(steps):
        low, high, error = currents[t if len(currents) > 1 else 0]
        most = leak * np.maximum(abs(left[0]), abs(left[1])) + gain * np.maximum(abs(low), abs(high))
        error = gain * error + 4 * _ROUNDING * most
        low, high = leak * left[0] + gain * low - error, leak * left[1] + gain * high + error
        here.low.append(low)
        here.high.append(high)
        here.error.append(error)
        if refine:
            for i in np.flatnonzero(~_fires(low, v, strict) & _fires(high, v, strict)):
                for side, sign in ((low, 1.0), (high, -1.0)):
                    direct = [np.zeros(count) for _ in range(t + 1)]
                    direct[t][i] = sign
                    bound = sign * _lower(parts, [*layers, here], place, [np.zeros(count)] * (t + 1), direct, box, True)
                    side[i] = max(side[i], bound) if sign > 0 else max(min(side[i], bound), low[i])
        sure, maybe = _fires(low, v, strict), _fires(high, v, strict)
        spikes[0].append(sure.astype(float))
        spikes[1].append(maybe.astype(float))
        fired = (np.zeros(count), np.zeros(count)) if hard else (np.where(sure, low - v, 0.0), high - v)
        low_after = np.where(sure, fired[0], np.where(maybe, np.minimum(low, fired[0]), low))
        high_after = np.where(sure, fired[1], np.where(maybe, np.maximum(v, fired[1]), high))
        left = (low_after, high_after)
    return here._replace(spikes=(np.stack(spikes[0]), np.stack(spikes[1])))


def _fires(u: Array, v: float, strict: bool) -> NDArray[np.bool_]:
    return u > v if strict else u >= v


def _lower(
    parts: list[Part], layers: list[Layer], place: int, a: list[Array], direct: list[Array] | None, box: Any, deep: bool
) -> float:
    """A lower bound on the sum of `a` times the currents of a part, and of `direct` times the membranes of its neurons."""
    constant, best = 0.0, -np.inf
    if direct is not None:
        a, constant = _through(parts[place], layers[place], a, direct)
    for index in range(place, -1, -1):
        a = [sum(a, np.zeros_like(a[0]))] if index == 0 else list(a)
        for matrix, bias, _ in reversed(parts[index].matrices):
            constant += sum(float(each @ bias) for each in a)
            a = [matrix.T @ each for each in a]
        bounds = zip(*layers[index - 1].spikes, strict=True) if index else [box]
        best = max(best, constant + sum(_least(each, low, high) for each, (low, high) in zip(a, bounds, strict=False)))
        if index == 0 or not deep:
            break
        a, more = _through(parts[index - 1], layers[index - 1], a, None)
        constant += more
    return best


def _least(a: Array, low: Array, high: Array) -> float:
    return float(np.minimum(a * low, a * high).sum())


def _through(part: Part, layer: Layer, a: list[Array], direct: list[Array] | None) -> tuple[list[Array], float]:
    assert part.neuron is not None
    leak, v, gain, start, hard, strict = _constants(part.neuron)
    constant, b, found = 0.0, np.zeros_like(a[0]), []
    for t in reversed(range(len(a))):
        slope, offset = np.zeros_like(b), np.zeros_like(b)
        for i in np.flatnonzero((a[t] != 0) | (b != 0)):
            slope[i], offset[i] = _line(a[t][i], b[i], layer.low[t][i], layer.high[t][i], v, hard, strict)
        slope = slope + (direct[t] if direct is not None else 0.0)
        constant += float(offset.sum() - abs(slope) @ layer.error[t])
        found.append(gain * slope)
        b = leak * slope
    return found[::-1], constant + float(b.sum() * start)


def _line(a: float, b: float, low: float, high: float, v: float, hard: bool, strict: bool) -> tuple[float, float]:
    """Of the lines through two corners of u -> a s + b v on [low, high] that lie below all of them, the one highest in the middle."""
    after = (0.0, a) if hard else (b, a - b * v)
    if low > v or (low == v and not strict):
        return after
    if high < v or (high == v and strict):
        return b, 0.0
    corners = [(low, b * low), (v, b * v), (v, a), (high, after[0] * high + after[1])]
    if high - low < 1e-6 * v:
        return 0.0, min(y for _, y in corners)
    best, height = (0.0, min(y for _, y in corners)), -np.inf
    for (x1, y1), (x2, y2) in combinations(corners, 2):
        if x2 > x1:
            slope = (y2 - y1) / (x2 - x1)
            offset = y1 - slope * x1 if x1 != v else y2 - slope * x2
            slack = 1e-9 * (1 + abs(slope) + abs(y1) + abs(y2))
            below = all(slope * x + offset <= y + slack for x, y in corners)
            middle = slope * (low + high) / 2 + offset
            if below and middle > height:
                best, height = (slope, offset), middle
    return best
