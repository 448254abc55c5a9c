"""The gradient contract: a neuron asks one object, the gradient estimator, for its backward pass.

How a spike is differentiated is a parameter of the attack, not a property of the model. A model trains with its own
surrogate; an attack runs `with estimator.applied(model):` and every neuron of the model, and of no other model, then
differentiates its spikes that way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.surrogates import Surrogate

if TYPE_CHECKING:
    from trustsnn.neurons.lif import SpikingNeuron

# The spike's derivative at the distance u - V [b, ...], at a step t, of the samples `rows` of the batch.
Derivative = Callable[[Tensor, int, slice], Tensor]

_CACHE = 1 << 18  # elements a time step that the working set of a layer is cut to: about 1 MiB of float32


def cache_sized(sequence: Tensor) -> Iterator[slice]:
    """Slices of the batch of a sequence [T, B, ...], each small enough for all its time steps to stay in the cache."""
    rows = max(1, _CACHE // max(1, sequence[0, 0].numel())) if sequence.shape[1] else 1
    for start in range(0, sequence.shape[1], rows):
        yield slice(start, min(start + rows, sequence.shape[1]))


def over_time(sequence: Tensor) -> Tensor:
    """The sum of a sequence [T, B, ...] over time, [B, ...], one step after the other. `Tensor.sum` orders its additions by
    the place in memory, so that the last bit of a sample's sum would depend on its place in the batch."""
    return reduce(torch.add, sequence.unbind(0))


def mean_over_time(sequence: Tensor) -> Tensor:
    """`over_time` divided by the number of steps."""
    return over_time(sequence) / len(sequence)


class LayerRecord(NamedTuple):
    """What a neuron layer did in one forward pass: all that an estimator may need."""

    membrane: Tensor  # u before the spike, [T, B, ...]
    current: Tensor | None  # input x, [T, B, ...]; kept only where the backward needs it
    leak: Tensor  # scalar
    threshold: Tensor  # scalar
    dynamics: Dynamics

    def fired(self) -> Tensor:
        """Where the layer spiked, boolean, [T, B, ...]."""
        compare = torch.gt if self.dynamics.comparator == ">" else torch.ge
        return compare(self.membrane, float(self.threshold))

    def gain(self) -> float:
        """What the current is multiplied by on its way into the membrane: 1, or 1 - leak."""
        return 1 - float(self.leak) if self.dynamics.gain == "leaky" else 1.0


class LayerGradients(NamedTuple):
    """Gradients of the loss with respect to a layer's input current [T, B, ...], leak and threshold (scalars)."""

    current: Tensor
    leak: Tensor | None
    threshold: Tensor | None


class SpikingLayer(Protocol):
    """What an estimator is applied to: a `SpikingNeuron`, or a neuron of another framework in a wrapped module."""

    estimator: GradientEstimator


class GradientEstimator:
    """Base of every estimator. A subclass defines `backward` and `describe`. One with statistics or masks of its own keeps
    them in what `prepared` gives each layer, so that they begin and end with an attack."""

    @property
    def needs_current(self) -> bool:
        """Whether `backward` reads the record's current."""
        return False

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        """Turn dLoss/dspikes [T, B, ...] into dLoss/dcurrent, and dLoss/d(leak, threshold) if `parameters`."""
        raise TypeError(f"{type(self).__name__} does not define how it differentiates a spike.")

    def describe(self) -> dict[str, object]:
        """Name and settings, for the key of a cell."""
        raise TypeError(f"{type(self).__name__} does not describe itself.")

    def follow(self, samples: Sequence[Hashable | None]) -> None:
        """Hear which samples the rows of the next backward pass are (None: padding). Statistics over the iterations of an
        attack follow the samples by it. Default: nothing."""

    def refusal(self, model: nn.Module) -> str | None:
        """Why this estimator cannot be applied to `model`, in a sentence; None where it can."""
        foreign = foreign_neurons(model)
        if not foreign:
            return None if neurons_of(model) else "the model has no spiking layer whose backward pass could be replaced."
        if isinstance(self, SpikeDerivative):
            return None
        return (
            f"{self.describe()['name']!r} needs trustsnn's own neurons, and those of this model are {foreign[0]}. "
            "For them: 'stbp', 'pdsg', 'assg'."
        )

    @contextmanager
    def prepared(self, model: nn.Module) -> Iterator[Mapping[SpikingLayer, GradientEstimator]]:
        """The estimator of each spiking layer of `model`, for as long as the context lasts. Default: this one."""
        yield dict.fromkeys(spiking_layers(model), self)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside this block every spiking layer of `model` differentiates with this estimator.

        Raises:
            ConfigError: the model has neurons of another framework, and the estimator is none for them.
        """
        layers = spiking_layers(model)
        refused = self.refusal(model)
        if layers and refused:
            raise ConfigError(f"The estimator cannot be applied: {refused}")
        before = {layer: layer.estimator for layer in layers}
        with self.prepared(model) as estimators:
            try:
                for neuron, estimator in estimators.items():
                    neuron.estimator = estimator
                yield
            finally:
                for neuron, estimator in before.items():
                    neuron.estimator = estimator


def neurons_of(model: nn.Module) -> list[SpikingNeuron]:
    """The layers of spiking neurons in `model`, in the order of its modules."""
    from trustsnn.neurons.lif import SpikingNeuron

    return [module for module in model.modules() if isinstance(module, SpikingNeuron)]


def foreign_neurons(model: nn.Module) -> list[SpikingLayer]:
    """The neurons of other frameworks in the wrapped modules (`trustsnn.interop`) of `model`."""
    return [neuron for module in model.modules() for neuron in vars(module).get("foreign_neurons", ())]


def spiking_layers(model: nn.Module) -> list[SpikingLayer]:
    """All that an estimator is applied to in `model`: `neurons_of` and `foreign_neurons`."""
    return [*neurons_of(model), *foreign_neurons(model)]


def follow(model: nn.Module, samples: Sequence[Hashable | None]) -> None:
    """Tell the estimators of all layers of `model` which samples the next backward pass is about."""
    for layer in spiking_layers(model):
        layer.estimator.follow(samples)


class SpikeDerivative(GradientEstimator):
    """An estimator that keeps the exact chain rule of the dynamics and replaces the spike's derivative alone. It needs to know
    nothing of the dynamics, so it works on neurons of other frameworks too. A subclass defines `derivative`."""

    whole_sequence: ClassVar[bool] = True  # whether `derivative` reads the record

    def derivative(self, record: LayerRecord) -> Derivative:
        """The spike's derivative at the steps of one backward pass, whose membranes `record` holds."""
        raise TypeError(f"{type(self).__name__} does not define the derivative of a spike.")

    def backward(self, record: LayerRecord, spike_gradient: Tensor, parameters: bool) -> LayerGradients:
        return through_time(record, spike_gradient, parameters, self.derivative(record))


@dataclass(frozen=True)
class STBP(SpikeDerivative):
    """Backpropagation through space and time with a surrogate (Wu 2018): the exact chain rule of the dynamics, but for
    the spike, whose derivative is the surrogate's."""

    surrogate: Surrogate = field(default_factory=Surrogate)

    whole_sequence: ClassVar[bool] = False

    def describe(self) -> dict[str, object]:
        return {"name": "stbp", "surrogate": self.surrogate.name, "width": self.surrogate.width}

    def derivative(self, record: LayerRecord) -> Derivative:
        return lambda distance, t, rows: self.surrogate.derivative(distance)


def through_time(record: LayerRecord, spike_gradient: Tensor, parameters: bool, derivative: Derivative) -> LayerGradients:
    """The exact chain rule of the dynamics over all time steps, with `derivative` for that of the spike."""
    gradient = torch.empty_like(spike_gradient)
    to_leak = to_threshold = spike_gradient.new_zeros(())
    for rows in cache_sized(record.membrane):
        current = record.current[:, rows] if record.current is not None else None
        part = record._replace(membrane=record.membrane[:, rows], current=current)
        sums = _through_time(part, spike_gradient[:, rows], gradient[:, rows], parameters, derivative, rows)
        to_leak, to_threshold = to_leak + sums[0], to_threshold + sums[1]
    return LayerGradients(gradient, to_leak if parameters else None, to_threshold if parameters else None)


def _through_time(
    record: LayerRecord, spike_gradient: Tensor, gradient: Tensor, parameters: bool, derivative: Derivative, rows: slice
) -> tuple[Tensor, Tensor]:
    """Fill `gradient` for the samples `rows`; their part of the gradients of leak and threshold."""
    dynamics = record.dynamics
    leak, threshold = float(record.leak), float(record.threshold)
    gain = record.gain()
    hard = dynamics.reset == "hard"
    compare = torch.gt if dynamics.comparator == ">" else torch.ge
    membranes = record.membrane.unbind(0)
    carried: Tensor | None = None  # dLoss/dv_t, v after the reset
    leak_sum = threshold_sum = spike_gradient.new_zeros(())
    for t in reversed(range(len(membranes))):
        u, to_spike = membranes[t], spike_gradient[t]
        if carried is not None and not dynamics.detach_reset:
            to_spike = torch.addcmul(to_spike, carried, u, value=-1) if hard else to_spike - threshold * carried
        through_spike = derivative(u - threshold, t, rows).mul_(to_spike)
        to_membrane = gradient[t]
        if carried is None:
            to_membrane.copy_(through_spike)
        else:
            torch.add(through_spike, carried, out=to_membrane)
            if hard:
                to_membrane.addcmul_(carried, compare(u, threshold).to(u.dtype), value=-1)
        if parameters:
            threshold_sum = threshold_sum - through_spike.sum()
            if carried is not None and not hard:
                threshold_sum = threshold_sum - (carried * compare(u, threshold)).sum()
            if t > 0:
                fired = compare(membranes[t - 1], threshold).to(u.dtype)
                previous = membranes[t - 1] * (1 - fired) if hard else membranes[t - 1] - threshold * fired
                leak_sum = leak_sum + (to_membrane * previous).sum()
            else:
                leak_sum = leak_sum + to_membrane.sum() * (dynamics.initial * threshold)
                threshold_sum = threshold_sum + to_membrane.sum() * (leak * dynamics.initial)
        carried = to_membrane * leak
    if parameters and dynamics.gain == "leaky":
        if record.current is None:
            raise ModelContractError("The leak's gradient of a leaky gain needs the layer's input, which was not kept.")
        leak_sum = leak_sum - (gradient * record.current).sum()
    if gain != 1:
        gradient *= gain
    return leak_sum, threshold_sum
