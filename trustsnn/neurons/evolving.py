"""Neurons whose leak is learnt for each time step (evolutionary leak factor of FEEL-SNN, Xu NeurIPS 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.surrogates import Surrogate
from trustsnn.neurons.unrolled import Derivatives, spike


class EvolvingLeak(SpikingNeuron):
    """A layer of LIF neurons with u_t = leak_t v_{t-1} + x_t, the rest as in `Dynamics`. The parameter `leak` [T] starts at that of
    `dynamics`, whose gain is "unit".

    >>> neuron = EvolvingLeak(2, Dynamics(leak=0.5))
    >>> _ = neuron.leak.data.copy_(torch.tensor([0.5, 0.0]))
    >>> neuron(torch.full((2, 1, 1), 0.7)).flatten().tolist()
    [0.0, 0.0]
    """

    def __init__(self, steps: int, dynamics: Dynamics, surrogate: Surrogate | None = None, *, learn: bool = False) -> None:
        super().__init__(dynamics, surrogate, learn=learn)
        del self.leak
        self.leak = nn.Parameter(torch.full((steps,), dynamics.leak))

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        steps = len(current) if steps is None else steps
        leak, threshold = self.parameters_in_bounds()
        if steps != len(leak):
            raise ModelContractError(f"Expected a current of {len(leak)} steps, one for each leak, got {steps}.")
        current = current.expand(steps, *current.shape[1:])
        derivatives = Derivatives(self, current, threshold)
        after = self.dynamics.initial * threshold
        spikes, membranes = [], []
        for step in range(steps):
            membranes.append(leak[step] * after + current[step])
            spikes.append(spike(membranes[-1] - threshold, derivatives))
            after = self._after(membranes[-1], spikes[-1].detach() if self.dynamics.detach_reset else spikes[-1])
        return torch.stack(spikes), torch.stack(membranes).detach()

    def resume(self, current: Tensor, steps: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Refused: a part of the steps does not say which leaks are its own."""
        raise ModelContractError("A layer with a leak for each step runs all of its steps at once.")

    def extra_repr(self) -> str:
        leaks = ", ".join(f"{value:.3g}" for value in self.leak.detach().tolist())
        return f"leak=[{leaks}], threshold={float(self.threshold.detach()):.3g}, reset={self.dynamics.reset}"
