"""A neuron of another framework whose spike asks trustsnn how it is differentiated, and is counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.neurons import Dynamics, GradientEstimator, LayerRecord
from trustsnn.neurons.estimator import Derivative, SpikeDerivative

SpikeFunction = Callable[[Tensor], Tensor]


class OwnSurrogate(GradientEstimator):
    """Stands where the framework's own surrogate is in force."""

    def describe(self) -> dict[str, object]:
        return {"name": "own"}


class Tape:
    """The distances u - V of one layer at the steps of one forward pass, and the spike's derivative at each of them."""

    def __init__(self, estimator: SpikeDerivative) -> None:
        self.estimator = estimator
        self.distances: list[Tensor] = []
        self._derivative: Derivative | None = None

    def derivative(self, t: int) -> Tensor:
        """The spike's derivative at step `t` [B, ...]. Called in the backward pass, when all steps are known."""
        if self._derivative is None:
            self._derivative = self.estimator.derivative(self._record())
        return self._derivative(self.distances[t], t, slice(None))

    def _record(self) -> LayerRecord:
        known = self.distances if self.estimator.whole_sequence else self.distances[:1]
        if any(each.shape != known[0].shape for each in known):
            raise ModelContractError(
                f"{self.estimator.describe()['name']!r} looks at all steps of a layer, and one neuron module of this model is "
                "used for layers of different shapes. Give each layer a neuron of its own, or leave out this estimator."
            )
        scalar = known[0].new_ones(())
        return LayerRecord(torch.stack(known), None, scalar, scalar.new_zeros(()), Dynamics())


class _Spike(torch.autograd.Function):
    """The framework's own spikes, with the derivative of a tape."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, original: SpikeFunction, tape: Tape) -> Tensor:
        ctx.tape, ctx.step = tape, len(tape.distances)
        tape.distances.append(distance.detach())
        return original(distance.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.tape.derivative(ctx.step), None, None


class ForeignNeuron(ABC):
    """A layer of neurons in a user's module. At rest the layer is as its framework made it. While an estimator is applied, or
    spikes are counted, some of its attributes are hidden behind others that call `spike`; no class and no other layer is touched.

    `spike` gives the framework's own spikes, whatever its comparator and dynamics are; the chain rule around it stays the
    framework's, reset included.
    """

    framework: ClassVar[str]

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.layer = name, layer
        self.counts: Tensor | None = None  # spikes so far, [B, ...neurons]
        self.batches: list[int] = []  # the samples of each step so far
        self._estimator: GradientEstimator = OwnSurrogate()
        self._tape: Tape | None = None
        self._counting = False
        self._hidden: dict[str, Any] = {}

    def __str__(self) -> str:
        return f"{self.framework}'s {type(self.layer).__name__}"

    @abstractmethod
    def replacements(self) -> Mapping[str, Any]:
        """Attributes of the layer, by name, that make it call `spike`."""

    @property
    def estimator(self) -> GradientEstimator:
        """How the layer differentiates its spikes."""
        return self._estimator

    @estimator.setter
    def estimator(self, estimator: GradientEstimator) -> None:
        self._estimator = estimator
        self.begin()
        self._attach()

    def begin(self) -> None:
        """A forward pass begins."""
        self._tape = Tape(self._estimator) if isinstance(self._estimator, SpikeDerivative) else None

    def spike(self, distance: Tensor, original: SpikeFunction) -> Tensor:
        """The spikes `original(distance)` of one step [B, ...], with the derivative of the estimator in force."""
        tape = self._tape if torch.is_grad_enabled() else None
        spikes = original(distance) if tape is None else _Spike.apply(distance, original, tape)  # type: ignore[no-untyped-call]
        if self._counting:
            self.batches.append(len(spikes))
            seen, counts = spikes.detach(), self.counts
            self.counts = seen + counts if counts is not None and counts.shape == seen.shape else seen
        return spikes

    def _attach(self) -> None:
        """Hide or bring back the layer's attributes. What stands in an instance's own dictionary is found before its submodules
        and its class's methods."""
        wanted = self._counting or not isinstance(self._estimator, OwnSurrogate)
        own = vars(self.layer)
        if wanted and not self._hidden:
            new = self.replacements()
            self._hidden = {name: own.get(name, _ABSENT) for name in new}
            own.update(new)
        elif not wanted:
            for name, value in self._hidden.items():
                if value is _ABSENT:
                    own.pop(name, None)
                else:
                    own[name] = value
            self._hidden = {}

    def _count(self, on: bool) -> None:
        self._counting, self.counts, self.batches = on, None, []
        self._attach()


_ABSENT = object()


@contextmanager
def counted(neurons: Sequence[ForeignNeuron]) -> Iterator[None]:
    """Inside, the neurons count their spikes and steps, from none."""
    try:
        for neuron in neurons:
            neuron._count(True)
        yield
    finally:
        for neuron in neurons:
            neuron._count(False)
