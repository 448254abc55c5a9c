"""From a ReLU network to integrate-and-fire neurons, by the statistics of both over a calibration set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trustsnn.blocks import frozen
from trustsnn.conversion.fold import rescaled_layers, scaled_shortcuts
from trustsnn.conversion.segments import batches, check_foldable, current, rectified, segments
from trustsnn.conversion.thresholds import largest_activations, least_squares, with_thresholds
from trustsnn.data import Dataset
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork, through
from trustsnn.models.zoo import stated
from trustsnn.neurons import Dynamics, Surrogate
from trustsnn.neurons.calibrated import Calibrated
from trustsnn.neurons.estimator import mean_over_time, over_time
from trustsnn.neurons.relu import ReLU
from trustsnn.neurons.synapses import Synapses
from trustsnn.rng import stream

CALIBRATIONS = {
    "balance": "V is the largest activation of a layer, or a percentile (Diehl 2015, Rueckauer 2017, Sengupta 2019)",
    "calibrate": "V by least squares; then biases and initial membranes that undo the mean error, layer by layer (Li ICML 2021)",
    "calibrate-advanced": "the same, with the weights of each layer fitted to the ANN's activations first",
}
_RATE = 4e-5  # of Adam, for the weights
_SAMPLES = 32  # of one of its iterations


@dataclass(frozen=True)
class Calibration:
    """What a ReLU network is converted by.

    samples: of the training split; no label is used.
    percentile: in (0, 100]: V of a layer among its activations; 100 is the largest one. "balance" alone reads it, and `scale`.
    scale: V is that times `scale`, above 0. The value of a spike follows, so that the rates mean the same, and larger ones are cut off.
    initial: V0 as a fraction of V; 0.5 is the best for constant currents (Bu AAAI 2022).
    iterations: of Adam for the weights of each layer, with "calibrate-advanced". 5,000 are published.
    seed: of the order of the samples in those.
    """

    samples: Dataset
    percentile: float = 100.0
    scale: float = 1.0
    initial: float = 0.0
    iterations: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise ConfigError(f"Expected a percentile above 0 and up to 100, got {self.percentile}.")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"Expected a positive scale of the thresholds, got {self.scale}.")
        if self.iterations < 1:
            raise ConfigError(f"Expected at least 1 iteration of the weights' calibration, got {self.iterations}.")
        Dynamics(initial=self.initial)


def calibrated(ann: SpikingNetwork, method: str, steps: int | None, calibration: Calibration | None) -> SpikingNetwork:
    """See `trustsnn.conversion.convert`."""
    if steps is None or steps < 1:
        raise ConfigError(f"Expected a number of steps of at least 1 for the conversion {method!r}, got {steps}.")
    if calibration is None:
        raise ConfigError(
            f"The conversion {method!r} takes samples of the training split: pass calibration=Calibration(samples)."
        )
    moving = method != "balance"
    check_foldable(ann, residual=not moving)
    if not rectified(ann):
        raise ConfigError(
            f"The conversion {method!r} takes an ANN whose layers are all ReLU. Train one with: trustsnn train ann --model ... --data ..."
        )
    bounds = largest_activations(ann, calibration.samples, 100.0 if moving else calibration.percentile)
    if moving:
        bounds = least_squares(ann, calibration.samples, bounds, steps, calibration.initial)
    ann = with_thresholds(ann, bounds if moving else [bound * calibration.scale for bound in bounds])
    given = dict(ann.architecture.get("arguments", {}))
    surrogate = Surrogate(given.get("surrogate", "triangular"), given.get("width", 1.0))
    dynamics = Dynamics(leak=1.0, reset="soft", initial=calibration.initial)
    shapes = _shapes(ann) if moving else []
    left = iter(shapes)

    def neurons(before: ReLU) -> Calibrated:
        layer = Calibrated(dynamics, surrogate, shape=next(left, None))
        layer.unit.fill_(before.bound)
        return layer

    layers = rescaled_layers(ann, lambda neuron: neuron.bound, neurons)
    arguments = stated(
        {
            **given, "neuron": "calibrated", "steps": steps, "norm": "none", "learn": False, "detach_reset": False,
            "leak": 1.0, "threshold": 1.0, "reset": "soft", "initial": calibration.initial, "potentials": shapes or None,
            **scaled_shortcuts(ann),
        }
    )  # fmt: skip
    network = SpikingNetwork(layers, replace(ann.spec, steps=steps), {**ann.architecture, "arguments": arguments}).eval()
    if moving:
        _correct(ann, network, calibration, weights=method == "calibrate-advanced")
    return network


def _shapes(ann: SpikingNetwork) -> list[list[int]]:
    """The neurons of each layer of one sample."""
    with frozen(ann), torch.no_grad():
        weight = next(ann.parameters())
        counts = ann.unroll(weight.new_zeros((1, *ann.spec.input_shape))).spike_counts
    return [list(count.shape[1:]) for count in counts.values()]


def _correct(ann: SpikingNetwork, network: SpikingNetwork, calibration: Calibration, *, weights: bool) -> None:
    """Layer by layer, each after those before it: what is below is measured in the network as it is by then.

    weights: W minimises the squared difference of the ANN's activation from (V/T) clip(floor(WxT/V), 0, T) of the mean spikes x.
    biases: b -= E[snn] - E[ann] for each channel. potentials: V0 += T E[ann - snn] for each neuron.

    Li has biases alone in the light pipeline, and potentials in their place in the advanced one. Here both have both, and the readout
    has its bias. The spikes of one layer are held, a byte each: samples x T x neurons.
    """
    flows = [_Flow(x, x) for x, _ in batches(calibration.samples, next(ann.parameters()))]
    before = 1.0  # what an input of the layer stands for
    for place in range(len(segments(network))):
        targets = _targets(ann, flows, place)
        layer, neuron = _weights_and_neuron(network, place)
        if neuron is not None:
            if weights:
                _fit(network, flows, targets, calibration, place, before)
            before = neuron.bound
        with torch.no_grad():
            assert layer.bias is not None
            error = _mean_error(network, flows, targets, place)
            layer.bias += error.reshape(len(layer.bias), -1).mean(1).to(layer.bias.dtype)
            if neuron is not None and neuron.potential is not None:
                error = _mean_error(network, flows, targets, place)
                neuron.potential += (network.spec.steps * error).to(neuron.potential.dtype)
        if neuron is not None:
            fired = _outputs(network, flows, place)
            flows = [_Flow(target[None] * before, out.bool()) for target, out in zip(targets, fired, strict=True)]


class _Flow(NamedTuple):
    """What goes into a layer for one batch: the ANN's activations [1, B, ...] and the spikes [T, B, ...], images for both at first."""

    activation: Tensor
    spikes: Tensor


def _targets(ann: SpikingNetwork, flows: list[_Flow], place: int) -> list[Tensor]:
    """The ANN's activations at `place` of each batch [B, ...] in units of V; its logits at the readout."""
    found = []
    with frozen(ann), torch.no_grad():
        _, stages, neuron = segments(ann)[place]
        for flow in flows:
            h = current(stages, flow.activation, place > 0)
            found.append((h if neuron is None else neuron.fire(h) / float(neuron.threshold))[0])
    return found


def _outputs(network: SpikingNetwork, flows: list[_Flow], place: int) -> Iterator[Tensor]:
    """The network's spikes at `place` of each batch [T, B, ...]; its logits at the readout."""
    with frozen(network), torch.no_grad():
        _, stages, neuron = segments(network)[place]
        for flow in flows:
            h = current(stages, flow.spikes.to(flow.activation.dtype), place > 0)
            yield h if neuron is None else neuron.fire(h, network.spec.steps)


def _mean_error(network: SpikingNetwork, flows: list[_Flow], targets: list[Tensor], place: int) -> Tensor:
    """The mean over the samples of the targets less the spikes a step, [...neurons], in float64."""
    outputs = _outputs(network, flows, place)
    sums = [(target.double() - mean_over_time(out).double()).sum(0) for target, out in zip(targets, outputs, strict=True)]
    return over_time(torch.stack(sums)) / sum(map(len, targets))


def _weights_and_neuron(network: SpikingNetwork, place: int) -> tuple[nn.Conv2d | nn.Linear, Calibrated | None]:
    """The weights that come last before the neurons at `place`, and these."""
    segment = segments(network)[place]
    name = next(name for name, stage in reversed(segment.stages) if isinstance(stage, Synapses))
    return network.layers.get_submodule(name), segment.neuron  # type: ignore[return-value]


def _fit(
    network: SpikingNetwork, flows: list[_Flow], targets: list[Tensor], calibration: Calibration, place: int, before: float
) -> None:
    """Fit the weights before the neurons at `place`. They move in the units of the ANN, where the published learning rate belongs."""
    layer, neuron = _weights_and_neuron(network, place)
    assert neuron is not None
    with frozen(network), torch.no_grad():
        stages = segments(network)[place].stages
        cut = max(i for i, (_, stage) in enumerate(stages) if isinstance(stage, Synapses))
        inputs = [mean_over_time(current(stages[:cut], flow.spikes.to(flow.activation.dtype), place > 0)) for flow in flows]
    x, wanted, steps = torch.cat(inputs), torch.cat(targets), network.spec.steps
    scale = before / neuron.bound
    weight = (layer.weight.detach() / scale).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, calibration.iterations)
    draws = stream(calibration.seed, f"calibrate/{place}")
    for _ in range(calibration.iterations):
        rows = torch.from_numpy(draws.integers(len(x), size=min(_SAMPLES, len(x))))
        h = functional_call(layer, {"weight": weight * scale}, (x[rows],))
        for _, stage in stages[cut + 1 :]:
            h = through(stage, h, False, len(rows))
        level = (h * steps + calibration.initial).clamp(0, steps)
        level = level + (level.floor() - level).detach()
        loss = (level / steps - wanted[rows]).square().flatten(1).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        layer.weight.copy_(weight * scale)
