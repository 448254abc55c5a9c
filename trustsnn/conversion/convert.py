"""From an ANN with QCFS or ReLU activations to a spiking network, by name of the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from trustsnn.conversion.calibrate import CALIBRATIONS, Calibration, calibrated
from trustsnn.conversion.fold import Unit, rescaled_layers, scaled_shortcuts
from trustsnn.conversion.segments import check_foldable
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork
from trustsnn.models.zoo import stated
from trustsnn.neurons import Dynamics, SpikingNeuron, Surrogate
from trustsnn.neurons.bitserial import BitSerial
from trustsnn.neurons.estimator import neurons_of
from trustsnn.neurons.qcfs import QCFS


@dataclass(frozen=True)
class Method:
    """A conversion: the value of one spike in the ANN (`unit`), the layer of neurons for given steps, levels and surrogate, the
    arguments of `trustsnn.models.build` that differ from the ANN's, and what each neuron gets beside its current over all steps,
    in units of its threshold (`shift`)."""

    description: str
    unit: Unit
    neurons: Callable[[int, int, Surrogate], SpikingNeuron]
    arguments: Callable[[int, int], dict[str, Any]]
    readout: str = "membrane"
    exact: bool = False
    shift: float = 0.0


def _level(neuron: QCFS) -> float:
    return neuron.bound / neuron.levels


def _rate(description: str, initial: float, shift: float) -> Method:
    dynamics: dict[str, Any] = {"leak": 1.0, "threshold": 1.0, "reset": "soft", "initial": initial}
    return Method(
        description,
        lambda neuron: neuron.bound,
        lambda steps, levels, surrogate: SpikingNeuron(Dynamics(**dynamics), surrogate),
        lambda steps, levels: {"neuron": "lif", "steps": steps, **dynamics},
        shift=shift,
    )


METHODS: dict[str, Method] = {
    "bit-serial": Method(
        "the T spikes are the T bits of a level, L = 2^T - 1; without loss (Datta 2023)",
        _level,
        lambda steps, levels, surrogate: BitSerial(steps, surrogate),
        lambda steps, levels: {"neuron": "bit-serial", "threshold": 1.0, "readout": "bits", "steps": steps},
        readout="bits",
        exact=True,
    ),
    "rate": _rate("integrate-and-fire with soft reset and V0 = V/2; the rate is near the activation (Bu ICLR 2022)", 0.5, 0.0),
    "shift": _rate("integrate-and-fire with soft reset and V/(2T) more current at each step (Deng & Gu ICLR 2021)", 0.0, 0.5),
    "folded": Method(
        "no spikes: the ANN itself with its normalisation folded in, activations in units of one level",
        _level,
        lambda steps, levels, surrogate: QCFS(levels, float(levels)),
        lambda steps, levels: {"neuron": "qcfs", "threshold": float(levels), "levels": levels, "steps": 1},
        exact=True,
    ),
}
_LOST = ("levels", "sparsity", "learn", "detach_reset")


def convert(
    ann: SpikingNetwork, method: str = "bit-serial", *, steps: int | None = None, calibration: Calibration | None = None
) -> SpikingNetwork:
    """A spiking network from a trained ANN, in eval mode: `METHODS` take one with QCFS activations (`build(..., neuron="qcfs")`),
    `CALIBRATIONS` one with ReLU (`neuron="relu"`), and samples.

    Normalisation is folded into the weights, and so is what a spike stands for, so that every spike is 0 or 1 and every threshold 1.
    A bundled architecture stays one: the result can be saved, loaded, attacked and audited like any other. Its dtype is the
    ANN's; a float64 network for a check comes from `convert(copy.deepcopy(ann).double(), ...)`.

    With "bit-serial", every layer's level is that of the ANN but where rounding decides: weights are rounded to the ANN's dtype once,
    and float32 sums depend on their order. In float64, all sums over levels are exact: "bit-serial" and "folded" then give
    the same levels in every layer, whatever the order, for any input.

    Args:
        method: one of `METHODS` or `CALIBRATIONS`.
        steps: T; with "bit-serial" it follows from the levels and need not be given.
        calibration: what one of `CALIBRATIONS` measures on.

    Raises:
        ConfigError: unknown method, another kind of network, branches other than a ResNet's, layers that differ in their levels, or
            steps that do not fit them.
    """
    if method in CALIBRATIONS:
        return calibrated(ann, method, steps, calibration)
    if method not in METHODS:
        raise ConfigError(f"Unknown conversion {method!r}. Known: {', '.join([*METHODS, *CALIBRATIONS])}.")
    levels = levels_of(ann)
    check_foldable(ann, residual=True)
    how = METHODS[method]
    steps = _steps(method, levels, steps)
    given = dict(ann.architecture.get("arguments", {}))
    surrogate = Surrogate(given.get("surrogate", "triangular"), given.get("width", 1.0))
    shift = how.shift / steps
    layers = rescaled_layers(ann, how.unit, lambda neuron: how.neurons(steps, levels, surrogate), shift=shift, exact=how.exact)
    arguments = {key: value for key, value in given.items() if key not in _LOST}
    arguments |= {"norm": "none", "learn": False, "detach_reset": False, **scaled_shortcuts(ann), **how.arguments(steps, levels)}
    arguments = stated(arguments)
    spec = replace(ann.spec, steps=steps, readout=how.readout)
    return SpikingNetwork(layers, spec, {**ann.architecture, "arguments": arguments}).eval()


def levels_of(ann: SpikingNetwork) -> int:
    """L of a network with QCFS activations; ConfigError where it has none, or several."""
    found = neurons_of(ann) if isinstance(ann, SpikingNetwork) else []
    levels = {layer.levels for layer in found if isinstance(layer, QCFS)}
    if len(levels) != 1 or not all(isinstance(layer, QCFS) for layer in found):
        what = ", ".join(sorted({type(layer).__name__ for layer in found})) or type(ann).__name__
        raise ConfigError(
            f"Expected an ANN whose layers all have QCFS activations with one number of levels, got {what}"
            f"{f' with {sorted(levels)} levels' if len(levels) > 1 else ''}. Train one with: trustsnn train qcfs --model ... "
            "--data ... --levels 15"
        )
    return levels.pop()


def _steps(method: str, levels: int, steps: int | None) -> int:
    if method == "folded":
        if steps not in (None, 1):
            raise ConfigError(f"The conversion 'folded' has no spikes and one step, got {steps} steps.")
        return 1
    if method == "bit-serial":
        bits = levels.bit_length()
        if levels != 2**bits - 1:
            raise ConfigError(f"The bit-serial conversion takes L = 2^T - 1 levels (1, 3, 7, 15, ...), got {levels}.")
        if steps not in (None, bits):
            raise ConfigError(f"Expected {bits} bit-serial steps for {levels} levels, got {steps}: L = 2^T - 1.")
        return bits
    if steps is None or steps < 1:
        raise ConfigError(f"Expected a number of steps of at least 1 for the conversion {method!r}, got {steps}.")
    return steps
