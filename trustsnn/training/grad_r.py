"""Grad R (Chen, IJCAI 2021, arXiv 2105.04916): training decides which synapses there are, as well as their weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from trustsnn.errors import ConfigError
from trustsnn.training.sparse import SparseWeight, check_sparsity, maskable_layers, reparametrised, weight_of


@dataclass(frozen=True)
class GradR:
    """w = sgn * relu(theta) for each synapse, sgn fixed at the start: one with theta <= 0 is dormant, its weight exactly 0.

    theta gets the gradient sgn * dLoss/dw, also where it is dormant, so that a synapse can come back. After each step of the
    optimizer theta moves by learning rate * alpha towards mu = ln(2 (1 - p)) / alpha, the centre of a Laplace prior of which a
    share p lies below 0. As in the authors' code the prior does not enter the optimizer's moments; unlike there it has no bias
    correction of Adam's, and decoupled weight decay acts on theta.

    Args:
        sparsity: p, in [0.5, 1).
        alpha: strength of the prior, > 0. The authors' code has 1e-3 for 512 epochs of MNIST; a few epochs need more.
        hold: the prior rests while a share p of the synapses is dormant. The paper's does not: what it ends with is a balance of
            prior and loss that depends on alpha and on the length of the training more than on p.
    """

    sparsity: float
    alpha: float = 0.3
    hold: bool = False

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, 0.5)
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ConfigError(f"Expected a positive alpha, got {self.alpha}.")

    @property
    def mu(self) -> float:
        """The centre of the prior, at most 0."""
        return math.log(2 * (1 - self.sparsity)) / self.alpha

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside, every optimizer step on the model's convolutions and linear layers is one of Grad R. A weight that is 0 at the
        start stays 0. Enter it before the optimizer is made, and save the model outside: there its weights are plain again."""
        layers = maskable_layers(model).values()
        with reparametrised({layer: _Rewired(weight_of(layer), self) for layer in layers}) as thetas:
            ours = set(map(id, thetas))
            enough = self.sparsity * sum(theta.numel() for theta in thetas)

            @torch.no_grad()
            def prior(optimizer: torch.optim.Optimizer, *_: Any) -> None:
                if self.hold and sum(int((theta <= 0).sum()) for theta in thetas) >= enough:
                    return
                for group in optimizer.param_groups:
                    for theta in group["params"]:
                        if id(theta) in ours:
                            theta.sub_(group["lr"] * self.alpha * torch.sign(theta - self.mu))

            handle = register_optimizer_step_post_hook(prior)
            try:
                yield
            finally:
                handle.remove()


class _Rewired(SparseWeight):
    sign: Tensor

    def __init__(self, weight: Tensor, given: GradR) -> None:
        super().__init__()
        self.given = given
        self.register_buffer("sign", weight.detach().sign())

    def forward(self, theta: Tensor) -> Tensor:
        return self.sign * (theta + (theta.relu() - theta).detach())  # the gradient as if there were no relu

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.abs()

    def settings(self) -> dict[str, Any]:
        return {"grad-r": asdict(self.given)}
