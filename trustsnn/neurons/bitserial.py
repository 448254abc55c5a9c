"""Bit-serial neurons: T spikes are the T bits of a level in 0..2^T - 1, the most significant one first (Datta 2023, arXiv
2312.06900). They turn a QCFS network with L = 2^T - 1 into a spiking one without loss."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.estimator import GradientEstimator, LayerRecord, cache_sized
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.operation import Operation
from trustsnn.neurons.surrogates import Surrogate
from trustsnn.neurons.synapses import Synapses

MOST_STEPS = 16


def shifted_sum(sequence: Tensor) -> Tensor:
    """sum over t of 2^(T-t) x_t of a sequence [T, B, ...], [B, ...]: u <- 2u + x_t."""
    return reduce(lambda u, x: torch.add(x, u, alpha=2), sequence.unbind(0))


def place_values(steps: int, like: Tensor) -> Tensor:
    """2^(T-t) for t = 1..T, in the dtype and on the device of `like`."""
    return 2.0 ** torch.arange(steps - 1, -1, -1, dtype=like.dtype, device=like.device)


class _Bits(Operation):
    """The bits of clip(floor(u + 1/2), 0, 2^T - 1), and, if they are to be kept, the membrane before each in units of that step's
    threshold."""

    @staticmethod
    def forward(total: Tensor, steps: int, estimator: GradientEstimator, keep: bool) -> tuple[Tensor, Tensor]:
        spikes = total.new_empty((steps, *total.shape))
        membranes = torch.empty_like(spikes) if keep else total.new_empty(0)
        for rows in cache_sized(total[None]):
            membrane = (total[rows] + 0.5).div_(2.0 ** (steps - 1))
            for t, spike in enumerate(spikes[:, rows].unbind(0)):
                if keep:
                    membranes[t, rows] = membrane
                torch.ge(membrane, 1.0, out=spike)
                membrane.sub_(spike).mul_(2)
        return spikes, membranes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, ctx.steps, ctx.estimator, _ = inputs
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 4
        (membrane,) = ctx.saved_tensors
        current = None
        if ctx.estimator.needs_current:
            current = torch.zeros_like(membrane)
            current[0] = membrane[0]
        record = LayerRecord(membrane, current, membrane.new_tensor(2.0), membrane.new_tensor(1.0), _DOUBLING)
        to_current = ctx.estimator.backward(record, gradients[0], False).current[0]
        return to_current / 2.0 ** (ctx.steps - 1), None, None, None


_DOUBLING = Dynamics(leak=1.0, reset="soft")  # of a record, whose leak is 2


class BitSerial(SpikingNeuron):
    """A layer of bit-serial neurons: currents of the T bits before it [T, B, ...] -> T bits [T, B, ...].

    All T currents come in before the first spike goes out: u <- 2u + x_t; then, with u <- u + 1/2, for t = 1..T
    s_t = 1[u >= 2^(T-t)] and u <- u - s_t 2^(T-t). The unit of u is one level, lam/L of the ANN. A current [1, B, ...] is an
    analogue one, and u itself.

    In units of each step's threshold that is a neuron with soft reset and leak 2 whose current comes in at the first step:
    v_1 = (u + 1/2) / 2^(T-1), s_t = 1[v_t >= 1], v_{t+1} = 2 (v_t - s_t). An estimator differentiates that. Subtracting and
    doubling are exact in floating point, so that the level is exactly clip(floor(u + 1/2), 0, 2^T - 1) of the rounded u + 1/2.

    >>> BitSerial(3)(torch.tensor([5.2]).view(1, 1, 1)).flatten().tolist()
    [1.0, 0.0, 1.0]
    """

    def __init__(self, steps: int, surrogate: Surrogate | None = None) -> None:
        if not 1 <= steps <= MOST_STEPS:
            raise ConfigError(f"Expected 1 to {MOST_STEPS} bit-serial steps, got {steps}.")
        super().__init__(Dynamics(leak=1.0, reset="soft", initial=0.5), surrogate)
        self.steps = steps

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        if len(current) not in (1, self.steps) or steps not in (None, self.steps):
            raise ModelContractError(f"Expected a current of {self.steps} bits or an analogue one, got {len(current)} steps.")
        spikes, membrane = _Bits.apply(shifted_sum(current), self.steps, self.estimator, keep != "nothing")
        return spikes, membrane

    def distances(self, current: Tensor, spikes: Tensor) -> Tensor:
        """As `SpikingNeuron.distances`: v_t - 1 in units of each step's threshold."""
        membrane, found = (shifted_sum(current) + 0.5) / 2.0 ** (self.steps - 1), []
        for spike in spikes:
            found.append(membrane - 1)
            membrane = 2 * (membrane - spike)
        return torch.stack(found)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class BiasAtLast(Synapses):
    """Synapses whose bias joins the current of the last step alone: the one that `shifted_sum` does not double."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None, *, half: bool = False):
        super().__init__(layer, norm, half=half)
        self.last_bias, self.bias = self.bias, None

    def add_bias(self, out: Tensor, batch: int) -> Tensor:
        """`out` [T * B, ...] with the bias added to its last B rows."""
        if self.last_bias is None:
            return out
        bias = self.last_bias.view(-1, *[1] * (out.dim() - 2))
        return torch.cat([out[:-batch], out[-batch:] + bias]) if len(out) > batch else out + bias
