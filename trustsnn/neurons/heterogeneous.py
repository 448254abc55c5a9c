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
    u_t = leak v_{t-1} + (1 - leak) rest + gain i_t      v_0 = rest, unless a layer starts above it
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


def driven(own: Constants, current: Tensor, steps: int) -> Tensor:
    """What joins the membranes at each step, gain i_t, [steps, B, ...], for a current [1 or steps, B, ...]."""
    if own.synapse_leak is not None and own.synapse_gain is not None:
        synaptic, found = torch.zeros_like(current[0]), []
        for x in current.expand(steps, *current.shape[1:]):
            synaptic = own.synapse_leak * synaptic + own.synapse_gain * x
            found.append(synaptic)
        current = torch.stack(found)
    return (own.gain * current).expand(steps, *current.shape[1:])


def through_time(
    own: Constants, drive: Tensor, fire: Callable[[Tensor, int], Tensor], dynamics: Dynamics, before: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes and the membranes u before them, [T, B, ...], and the last membrane after its reset, for what `driven` gives. `fire` gives
    the spikes for the distance u - V at a step, [B, ...]; `dynamics` says how they reset, and where membranes start that no step `before`
    these left: `dynamics.initial` V above rest."""
    offset = (1 - own.leak) * own.rest
    after = own.rest + dynamics.initial * own.threshold if before is None else before
    spikes, membranes = [], []
    for step, x in enumerate(drive):
        membrane = own.leak * after + offset + x
        membranes.append(membrane)
        spikes.append(fire(membrane - own.threshold, step))
        fired = spikes[-1].detach() if dynamics.detach_reset else spikes[-1]
        after = membrane + fired * (own.after - membrane) if dynamics.reset == "hard" else membrane - fired * own.threshold
    return torch.stack(spikes), torch.stack(membranes), after


class Individual(SpikingNeuron):
    """Base of layers of LIF neurons that each have constants of their own; `dynamics` has their comparator and reset.

    A gradient estimator is asked for the spike's derivative at the distance u - V of each neuron; the recursion is autograd's.
    """

    def constants(self, current: Tensor) -> Constants:
        """Those of the neurons that a current [T, B, ...neurons] is for."""
        raise TypeError(f"{type(self).__name__} does not say what its neurons have.")

    def resume(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `SpikingNeuron.resume`; refused behind a synapse, whose current is no part of what is handed on."""
        if self.constants(current).synapse_leak is not None:
            raise ModelContractError("A layer of neurons with a synaptic current runs all of its steps at once.")
        spikes, _, after = self._fired(current, steps, before)
        return spikes, after.detach()

    def distances(self, current: Tensor, spikes: Tensor) -> Tensor:
        """As `SpikingNeuron.distances`, to each neuron's own threshold."""
        own = self.constants(current)
        drive = driven(own, current, len(spikes))
        return through_time(own, drive, lambda distance, step: spikes[step], self.dynamics)[1] - own.threshold

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        spikes, membranes, _ = self._fired(current, len(current) if steps is None else steps, None)
        return spikes, membranes.detach()

    def _fired(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        own = self.constants(current)
        drive = driven(own, current, steps)
        derivatives = Derivatives(self, drive, self.threshold)
        return through_time(own, drive, lambda distance, step: spike(distance, derivatives), self.dynamics, before)


class Heterogeneous(Individual):
    """A layer of LIF neurons as `Constants` says; `dynamics` also has their mean leak and threshold.

    >>> one = torch.tensor
    >>> constants = Constants(leak=one(0.5), gain=one(1.0), threshold=one([1.0, 2.0]), rest=one(0.0), after=one(0.0))
    >>> Heterogeneous(constants)(torch.ones(3, 1, 2)).tolist()
    [[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]]
    """

    def __init__(self, constants: Constants, dynamics: Dynamics | None = None, surrogate: Surrogate | None = None) -> None:
        super().__init__(dynamics, surrogate)
        hold(self, constants)

    def constants(self, current: Tensor) -> Constants:
        """Those that the layer holds."""
        return held(self)

    def extra_repr(self) -> str:
        spread = (f"{name}={_span(getattr(self, f'each_{name}'))}" for name in ("leak", "gain", "threshold"))
        return f"{', '.join(spread)}, reset={self.dynamics.reset}, comparator={self.dynamics.comparator}"


def _span(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"
