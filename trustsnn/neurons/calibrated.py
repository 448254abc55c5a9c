"""Integrate-and-fire neurons of a network that was converted by calibration: each may start from a membrane of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trustsnn.errors import ModelContractError
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.surrogates import Surrogate


class Calibrated(SpikingNeuron):
    """A layer of neurons with what a calibration found out about it.

    The buffer `unit` (scalar) is V of the ANN: the activation that a spike at every step stands for; nothing here depends on it. The
    buffer `potential` [...neurons], where a `shape` is given, joins the current of the first step. With leak 1 that adds to the
    membrane that each neuron begins with, in units of the threshold 1 (Li ICML 2021, potential calibration).

    >>> neuron = Calibrated(Dynamics(leak=1.0, reset="soft"), shape=[1])
    >>> neuron.potential.fill_(0.7)
    tensor([0.7000])
    >>> neuron(torch.full((4, 1, 1), 0.4)).flatten().tolist()
    [1.0, 0.0, 1.0, 0.0]
    """

    unit: Tensor
    potential: Tensor | None

    def __init__(
        self,
        dynamics: Dynamics | None = None,
        surrogate: Surrogate | None = None,
        *,
        learn: bool = False,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(dynamics, surrogate, learn=learn)
        self.register_buffer("unit", torch.tensor(1.0))
        self.register_buffer("potential", None if shape is None else torch.zeros(tuple(shape)))

    def distances(self, current: Tensor, spikes: Tensor) -> Tensor:
        """As `SpikingNeuron.distances`, with the potential in the membrane."""
        return super().distances(self._with_potential(current, len(spikes)), spikes)

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        return super()._run(self._with_potential(current, len(current) if steps is None else steps), steps, keep)

    def _with_potential(self, current: Tensor, steps: int) -> Tensor:
        """The current, and at the first of `steps` the potential, if there is one."""
        if self.potential is not None:
            if current.shape[2:] != self.potential.shape:
                raise ModelContractError(
                    f"Expected a current of neurons {list(self.potential.shape)}, which have initial potentials, got "
                    f"{list(current.shape[2:])}."
                )
            rest = current[1:] if len(current) == steps else current.expand(steps - 1, *current.shape[1:])
            current = torch.cat([current[:1] + self.potential, rest])
        return current

    @property
    def bound(self) -> float:
        """The buffer `unit` as a number."""
        return float(self.unit)
