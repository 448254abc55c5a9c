"""QCFS: the quantised, clipped activation of an ANN that is to become a spiking network (Bu ICLR 2022)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustsnn.errors import ConfigError
from trustsnn.kernels.lif import Keep
from trustsnn.neurons.dynamics import Dynamics
from trustsnn.neurons.estimator import GradientEstimator
from trustsnn.neurons.lif import SpikingNeuron
from trustsnn.neurons.operation import Operation


class _Quantise(Operation):
    """lam/L clip(floor(h L/lam + 1/2), 0, L) of a current h, straight through the floor. The backward pass also adds the gradient
    of `sparsity` times the sum of all bits of all levels."""

    generate_vmap_rule = True

    @staticmethod
    def forward(current: Tensor, threshold: Tensor, levels: int, sparsity: float) -> Tensor:
        return quantise(current, threshold, levels) * (threshold / levels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        current, threshold, ctx.levels, ctx.sparsity = inputs
        ctx.save_for_backward(current, threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        current, threshold = ctx.saved_tensors
        levels = ctx.levels
        scaled = torch.floor(current * (levels / threshold) + 0.5)
        inside = ((scaled >= 0) & (scaled <= levels)).to(current.dtype)
        # each of the bits has the gradient 1, and their mean is passed on to the level
        to_level = gradients[0] * (threshold / levels) + ctx.sparsity
        to_current = to_level * inside * (levels / threshold)
        to_threshold = (gradients[0] * scaled.clamp(0, levels)).sum() / levels - (to_current * current).sum() / threshold
        return to_current, to_threshold.to(threshold.dtype), None, None


def quantise(current: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """The level n = clip(floor(h L/lam + 1/2), 0, L) of each current h, a whole number in the dtype of `current`."""
    return torch.floor(current * (levels / threshold) + 0.5).clamp(0, levels)


class StraightThrough(GradientEstimator):
    """The gradient of QCFS, whatever an attack asks for: there is no spike to differentiate."""

    def describe(self) -> dict[str, object]:
        return {"name": "qcfs"}


class QCFS(SpikingNeuron):
    """What stands in a neuron's place in the ANN: a = lam n/L with the level n = clip(floor(h L/lam + 1/2), 0, L) of its current h
    over the one step, [1, B, ...]. The threshold lam is learnt, held above 0.001.

    The gradient is exact but for the floor, whose derivative counts as 1 (straight through).

    `sparsity` is the weight lam_r of the bit-level L1 penalty of Datta 2023 (arXiv 2312.06900), R = the sum over samples, neurons and
    bits of the T-bit level: in training, the backward pass adds the gradient of lam_r R to that of the loss, which it leaves
    as it is. Each bit passes its gradient to the level by its mean over the bits, as published: dR/dn = 1.

    Args:
        levels: L, at least 1. 2^T - 1 is what a bit-serial network of T steps gives without loss.
        threshold: lam at the start.
        sparsity: lam_r, at least 0. R is a sum over the batch, so lam_r is small: 1e-8 in the paper.
    """

    binary: ClassVar[bool] = False

    def __init__(self, levels: int, threshold: float = 8.0, sparsity: float = 0.0) -> None:
        if type(levels) is not int or not 1 <= levels < 1 << 16:
            raise ConfigError(f"Expected a whole number of levels from 1 to 65535, got {levels!r}.")
        if not 0 <= sparsity < float("inf"):
            raise ConfigError(f"Expected a weight of the bits' L1 penalty of at least 0, got {sparsity}.")
        super().__init__(Dynamics(leak=1.0, threshold=threshold, reset="soft", initial=0.5))
        del self.threshold
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))
        self.levels, self.sparsity = levels, sparsity
        self.estimator = StraightThrough()

    def _run(self, current: Tensor, steps: int | None, keep: Keep) -> tuple[Tensor, Tensor]:
        threshold = self.parameters_in_bounds()[1]
        sparsity = self.sparsity if self.training else 0.0
        activation: Tensor = _Quantise.apply(current, threshold, self.levels, sparsity)
        return activation, current

    def parameters_in_bounds(self) -> tuple[Tensor, Tensor]:
        """Leak and threshold; the latter is held above 0.001, with the gradient of the identity."""
        return self.leak, self.threshold + (self.threshold.clamp_min(1e-3) - self.threshold).detach()

    @property
    def bound(self) -> float:
        """The threshold lam as a number: the largest activation."""
        return float(self.parameters_in_bounds()[1].detach())

    def level(self, current: Tensor) -> Tensor:
        """The level n of each current, a whole number in 0..L; no gradient."""
        return quantise(current.detach(), self.parameters_in_bounds()[1].detach(), self.levels)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, threshold={self.bound:.3g}"
