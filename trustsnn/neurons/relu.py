"""ReLU: the plain activation of an ANN that is to become a spiking network by the statistics of its activations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.estimator import GradientEstimator
from trustsnn.neurons.lif import SpikingNeuron


class Rectified(GradientEstimator):
    """The gradient of ReLU, whatever an attack asks for: there is no spike to differentiate."""

    def describe(self) -> dict[str, object]:
        return {"name": "relu"}


class ReLU(SpikingNeuron):
    """What stands in a neuron's place in the ANN: a = max(0, h) of its current h over the one step, [1, B, ...].

    The buffer `threshold` is V, what a conversion takes as the value of one spike; the activation itself knows no bound.
    """

    binary: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(Dynamics(leak=1.0, reset="soft"))
        self.estimator = Rectified()

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        return torch.relu(current), current

    @property
    def bound(self) -> float:
        """V as a number."""
        return float(self.threshold)

    def extra_repr(self) -> str:
        return ""
