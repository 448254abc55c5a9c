"""Neurons with integer state: the membrane is a whole number, as in digital chips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trustsnn.errors import ModelContractError
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Comparator, Reset
from trustsnn.neurons.estimator import LayerRecord, over_time
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.operation import Operation

_CACHE = 1 << 15  # neurons at a time, 256 kB of each whole number


def _rows(sequence: Tensor) -> Iterator[slice]:
    size = max(1, _CACHE // max(1, sequence[0, :1].numel()))
    return (slice(start, start + size) for start in range(0, sequence.shape[1], size))


class _Integrate(Operation):
    """Spikes and membranes of an integer run. The gradient is that of the same neurons in real numbers, at the membranes of the
    run."""

    @staticmethod
    def forward(
        reaching: Tensor, current: Tensor, neuron: FixedPoint, steps: int, before: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return neuron.integrate(current, steps, before)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        reaching, _, ctx.neuron, ctx.steps, _ = inputs
        ctx.estimator = ctx.neuron.estimator
        ctx.given = len(reaching)
        ctx.save_for_backward(output[1], reaching if ctx.estimator.needs_current else None)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 5
        membrane, reaching = ctx.saved_tensors
        neuron = ctx.neuron
        whole = reaching.expand_as(membrane) if reaching is not None else None
        record = LayerRecord(membrane, whole, neuron.leak, neuron.threshold, neuron.dynamics)
        found = ctx.estimator.backward(record, gradients[0], False).current
        return over_time(found).unsqueeze(0) if ctx.given < ctx.steps else found, None, None, None, None


class FixedPoint(SpikingNeuron):
    """A layer of neurons whose membrane is a whole number of `1 / unit` of the network's units. A subclass defines `step`.

    A current [T, B, ...] in the network's units times gain and `unit` becomes the nearest whole number, ties to even. An
    estimator sees the membrane, the threshold and the leak that the chip has, in the network's units; rounding and saturation
    have the gradient of the identity.

    Args:
        neuron: the neurons that these stand for; `potential` [...neurons] of calibrated ones joins V0. unit: whole numbers of the
        membrane to one of the network's units. leak, threshold: what the chip makes of them, in the network's units. bias: the
        part of each step's current that comes from no spike, as whole numbers [...neurons] or to be broadcast to them; 0 for a
            chip that does not keep the two apart.
        comparator, reset: those of the chip, None for the neuron's own.
    """

    initial: Tensor
    bias: Tensor

    def __init__(
        self,
        neuron: SpikingNeuron,
        unit: float,
        *,
        leak: float,
        threshold: float,
        bias: Tensor | int = 0,
        comparator: Comparator | None = None,
        reset: Reset | None = None,
    ) -> None:
        own = neuron.dynamics
        super().__init__(
            replace(
                own,
                leak=leak,
                threshold=threshold,
                gain="unit",
                comparator=comparator or own.comparator,
                reset=reset or own.reset,
            )
        )
        self.estimator, self.keep = neuron.estimator, neuron.keep
        self.unit = unit
        own_leak, own_threshold = (each.detach().double() for each in neuron.parameters_in_bounds())
        self.gain = 1 - float(own_leak) if own.gain == "leaky" else 1.0
        start = own.initial * own_threshold
        if getattr(neuron, "potential", None) is not None:
            start = start + neuron.potential.double()  # type: ignore[operator]
        self.register_buffer("initial", (start * unit).round().long())
        self.register_buffer("bias", torch.as_tensor(bias, dtype=torch.int64))

    def step(self, state: Tensor, drive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step from whole numbers, int64: the membrane before the spike, the spikes [B, ...] (a count where the chip sends
        several in a step), and the state afterwards."""
        raise TypeError(f"{type(self).__name__} does not define its step.")

    def rest(self, like: Tensor) -> Tensor:
        """The state [B, ...] before the first step for a drive [B, ...]; the membrane alone unless a chip has more."""
        return torch.zeros_like(like) + self.initial

    def drive(self, current: Tensor) -> Tensor:
        """The whole numbers that a current puts into the membrane, int64."""
        return (current.double() * (self.unit * self.gain)).round().long()

    def reaching(self, current: Tensor, steps: int) -> Tensor:
        """What reaches the membrane, in the network's units and in real numbers, of as many steps as the current or of all: the
        gradient takes this way."""
        return current * self.gain if self.gain != 1 else current

    def integrate(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes and the membranes before them in the network's units, both [steps, B, ...], and the state that the last step
        leaves, whole numbers [B, ...]."""
        if current.dim() < 2 or len(current) not in (1, steps):
            raise ModelContractError(f"Expected a current of shape [1 or {steps}, B, ...], got {list(current.shape)}.")
        spikes = current.new_empty((steps, *current.shape[1:]))
        membranes, after = torch.empty_like(spikes), []
        for rows in _rows(spikes):
            drive = self.drive(current[:, rows].detach())
            state = self.rest(drive[0]) if before is None else before[rows]
            for t, x in enumerate(drive.expand(steps, *drive.shape[1:])):
                membrane, spikes[t, rows], state = self.step(state, x)
                membranes[t, rows] = membrane.double() / self.unit
            after.append(state)
        return spikes, membranes, torch.cat(after) if after else self.rest(self.drive(current[0].detach()))

    def resume(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `SpikingNeuron.resume`; what is handed on is the state as whole numbers."""
        spikes, _, after = self._integrated(current, steps, before)
        return spikes, after

    def distances(self, current: Tensor, spikes: Tensor) -> Tensor:
        """As `SpikingNeuron.distances`; the value is that of the integer run."""
        found = super().distances(self.reaching(current, len(spikes)), spikes)
        exact = self.integrate(current, len(spikes), None)[1] - self.threshold
        return found + (exact - found).detach()

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        return self._integrated(current, len(current) if steps is None else steps, None)[:2]

    def _integrated(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        given = (self.reaching(current, steps), current.detach(), self, steps, before)
        found: tuple[Tensor, Tensor, Tensor] = _Integrate.apply(*given)
        return found

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, unit={self.unit:.6g}"
