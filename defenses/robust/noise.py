"""Hardware-aware training: weights that are off by a little at each step (Joshi 2020, arXiv 1906.03138)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from trustsnn.defenses.robust.base import Robust, check_plain_weights
from trustsnn.models.network import SpikingNetwork
from trustsnn.rng import Draws, stream
from trustsnn.settings import setting
from trustsnn.training.sparse import synaptic_layers, weight_of


@dataclass(frozen=True, kw_only=True)
class Noise(Robust):
    """Forward and backward pass with w + sigma max|w| xi in place of the weights w of each convolution and linear layer, xi standard
    normal and new at each step. The optimizer moves w itself.

    Args:
        sigma: in units of the layer's largest |w|. The conductances of phase-change memory ask for about 0.04.
    """

    sigma: float = setting(0.04)

    name: ClassVar[str] = "noise"
    images: ClassVar[bool] = False

    def check(self, model: SpikingNetwork) -> None:
        super().check(model)
        check_plain_weights(model, self.name)

    @contextmanager
    def applied(self, model: SpikingNetwork, draws: Draws) -> Iterator[None]:
        """Inside, the layers compute with noisy weights, whose gradient goes to the weights."""
        batch = "\x1f".join(draws.ids)
        held = []
        try:
            for name, layer in synaptic_layers(model).items():
                weight = weight_of(layer)
                drawn = stream(draws.seed, f"{draws.task}/noise/{name}", batch)
                xi = torch.from_numpy(drawn.standard_normal(tuple(weight.shape), dtype=np.float32)).to(weight)
                held.append((layer, layer._parameters["weight"]))
                spread = self.sigma * weight.detach().abs().max()
                layer._parameters["weight"] = weight + spread * xi  # type: ignore[assignment]
            yield
        finally:
            for layer, parameter in held:
                layer._parameters["weight"] = parameter
