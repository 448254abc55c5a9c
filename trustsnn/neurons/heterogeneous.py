"""Neurons with parameters of their own within a layer, rest and reset potentials, and a synaptic current."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.surrogates import Surrogate
from trustsnn.neurons.unrolled import Derivatives, spike


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What each neuron of a layer has, every tensor [...neurons] or a scalar.

    i_t = synapse_leak i_{t-1} + synapse_gain x_t        i_t = x_t without a synapse
    u_t = leak v_{t-1} + (1 - leak) rest + gain i_t      v_0 = rest
    s_t = 1[u_t >= threshold]  or  >
    v_t = after where s_t = 1, else u_t                  reset "hard"
    v_t = u_t - s_t threshold                            reset "soft"
    """

    leak: Tensor
    gain: Tensor
    threshold: Tensor
    rest: Tensor
    after: Tensor
    synapse_leak: Tensor | None = None
    synapse_gain: Tensor | None = None


def hold(module: nn.Module, constants: Constants) -> None:
    """Make the constants buffers of a module."""
    for field in fields(constants):
        module.register_buffer(f"each_{field.name}", getattr(constants, field.name))


def held(module: nn.Module) -> Constants:
    """The constants that a module holds, where they are now."""
    return Constants(**{field.name: getattr(module, f"each_{field.name}") for field in fields(Constants)})


def through_time(
    own: Constants, current: Tensor, fire: Callable[[Tensor, int], Tensor], dynamics: Dynamics
) -> tuple[Tensor, Tensor]:
    """Spikes and distances u - V of the membrane before them, [T, B, ...], for a current [T, B, ...]. `fire` gives the spikes for the
    distance at a step, [B, ...]; `dynamics` says how they reset."""
    offset = (1 - own.leak) * own.rest
    synaptic, after = torch.zeros_like(current[0]), own.rest.expand_as(current[0])
    spikes, distances = [], []
    for step, x in enumerate(current):
        if own.synapse_leak is not None and own.synapse_gain is not None:
            x = synaptic = own.synapse_leak * synaptic + own.synapse_gain * x
        membrane = own.leak * after + offset + own.gain * x
        distances.append(membrane - own.threshold)
        spikes.append(fire(distances[-1], step))
        fired = spikes[-1].detach() if dynamics.detach_reset else spikes[-1]
        after = membrane + fired * (own.after - membrane) if dynamics.reset == "hard" else membrane - fired * own.threshold
    return torch.stack(spikes), torch.stack(distances)


class Heterogeneous(SpikingNeuron):
    """A layer of LIF neurons as `Constants` says; `dynamics` has their comparator and reset, and the mean leak and threshold.

    A gradient estimator is asked for the spike's derivative at the distance u - V of each neuron; the recursion is autograd's.

    >>> one = torch.tensor
    >>> constants = Constants(leak=one(0.5), gain=one(1.0), threshold=one([1.0, 2.0]), rest=one(0.0), after=one(0.0))
    >>> Heterogeneous(constants)(torch.ones(3, 1, 2)).tolist()
    [[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]]
    """

    def __init__(self, constants: Constants, dynamics: Dynamics | None = None, surrogate: Surrogate | None = None) -> None:
        super().__init__(dynamics, surrogate)
        hold(self, constants)

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        steps = len(current) if steps is None else steps
        current = current.expand(steps, *current.shape[1:])
        derivatives = Derivatives(self, current, self.threshold)
        spikes, distances = through_time(held(self), current, lambda distance, step: spike(distance, derivatives), self.dynamics)
        return spikes, (distances + self.threshold).detach()

    def distances(self, current: Tensor, spikes: Tensor) -> Tensor:
        """As `SpikingNeuron.distances`."""
        return through_time(held(self), current.expand_as(spikes), lambda distance, step: spikes[step], self.dynamics)[1]

    def resume(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Refused: one membrane is not all that a step leaves to the next."""
        raise ModelContractError("A layer of neurons with parameters of their own runs all of its steps at once.")

    def extra_repr(self) -> str:
        spread = (f"{name}={_span(getattr(self, f'each_{name}'))}" for name in ("leak", "gain", "threshold"))
        return f"{', '.join(spread)}, reset={self.dynamics.reset}, comparator={self.dynamics.comparator}"


def _span(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"
