"""One image after the other through S4NN's forward and backward pass, compiled by numba: what `S4NN` does in training mode on
batches of one with plain gradient descent, in a fraction of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any]
    try:
        compiled = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no folder for the cache
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


@_jit
def _order(times: Ints, last: int, order: Ints, bins: Ints) -> int:
    """Put the neurons that spike before `last` into `order`, by time and then by number, and return how many they are."""
    for t in range(last + 1):
        bins[t] = 0
    for time in times:
        if time < last:
            bins[time + 1] += 1
    for t in range(last):
        bins[t + 1] += bins[t]
    for neuron in range(len(times)):
        if times[neuron] < last:
            order[bins[times[neuron]]] = neuron
            bins[times[neuron]] += 1
    return bins[last]  # type: ignore[no-any-return]


@_jit
def _fire(times: Ints, order: Ints, weight: Floats, threshold: float, last: int, potential: Floats, spikes: Ints) -> None:
    for j in range(len(spikes)):
        potential[j] = 0
        spikes[j] = last
    for place in range(len(order)):
        row = weight[order[place]]
        for j in range(len(spikes)):
            potential[j] += row[j]
        time = times[order[place]]
        if place + 1 == len(order) or times[order[place + 1]] > time:
            for j in range(len(spikes)):
                if spikes[j] == last and potential[j] > threshold:
                    spikes[j] = time + 1


@_jit
def _descend(times: Ints, order: Ints, weight: Floats, spikes: Ints, error: Floats, rate: float) -> None:
    """Step against `error` [J], made a unit vector, on the weights of the inputs that came before each neuron's spike."""
    square = np.float32(0)
    for each in error:
        square += each * each
    if square == 0:
        return
    step = np.float32(rate) / np.sqrt(square)
    for neuron in order:
        row = weight[neuron]
        time = times[neuron]
        for j in range(len(spikes)):
            row[j] -= step * error[j] * (time < spikes[j])


@_jit
def learn(
    times: Ints, labels: Ints, hidden: Floats, output: Floats,
    threshold: float, last: int, gamma: int, rate: float, active: Ints,
) -> tuple[float, int]:  # fmt: skip
    """Learn from images [N, I], given as spike times, in their order, changing `hidden` [I, J] and `output` [J, K] in place.

    `active` [J] counts the images for which each hidden neuron spiked. Returns the sum of the losses and the number of images whose
    class spiked first and alone.
    """
    inputs, neurons = hidden.shape
    classes = output.shape[1]
    order, between, bins = np.empty(inputs, np.int64), np.empty(neurons, np.int64), np.empty(last + 1, np.int64)
    first, second = np.empty(neurons, np.int64), np.empty(classes, np.int64)
    potential, back = np.empty(max(neurons, classes), np.float32), np.empty(neurons, np.float32)
    error = np.empty(classes, np.float32)
    loss, correct = 0.0, 0
    for image in range(len(times)):
        label = labels[image]
        come = order[: _order(times[image], last, order, bins)]
        _fire(times[image], come, hidden, threshold, last, potential, first)
        passed = between[: _order(first, last, between, bins)]
        _fire(first, passed, output, threshold, last, potential, second)
        earliest, together = last, 0
        for k in range(classes):
            earliest = min(earliest, second[k])
        for k in range(classes):
            target = min(earliest + gamma, last) if second[k] - earliest < gamma else second[k]
            if k == label:
                target = earliest if earliest < last else last - gamma
            error[k] = np.float32(target - second[k]) / np.float32(last)
            loss += 0.5 * error[k] * error[k]
            together += second[k] == earliest
        correct += second[label] == earliest and together == 1
        for neuron in range(neurons):
            back[neuron] = 0
        for neuron in passed:
            active[neuron] += 1
            for k in range(classes):
                back[neuron] += error[k] * output[neuron, k] * (first[neuron] < second[k])
        _descend(first, passed, output, second, error, rate)
        _descend(times[image], come, hidden, first, back, rate)
    return loss, correct
