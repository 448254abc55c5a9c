"""Filters of event frames [B, T, 2, H, W] that a defender puts before a model (Marchisio et al. 2021, DVS-Attacks)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from trustsnn.attacks.events.base import at_least
from trustsnn.encoders import Generator
from trustsnn.errors import ModelContractError

Filter = Callable[[Tensor], Tensor]


def background_activity(x: Tensor, radius: int = 1, steps: int = 1) -> Tensor:
    """BAF: an event stays if another pixel at most `radius` away (s, 1 to 4) has an event of any polarity at the same step or
    in the `steps` before (T); lone events are noise."""
    at_least(1, radius=radius)
    at_least(0, steps=steps)
    active = (x.detach() != 0).any(2).to(x.dtype)  # [B, T, H, W]
    height, width = active.shape[2:]
    padded = functional.pad(active, (radius,) * 4)
    near = torch.zeros_like(active)
    for row in range(2 * radius + 1):
        for column in range(2 * radius + 1):
            if (row, column) != (radius, radius):
                near = torch.maximum(near, padded[:, :, row : row + height, column : column + width])
    supported = near.clone()
    for lag in range(1, min(steps, x.shape[1] - 1) + 1):
        supported[:, lag:] = torch.maximum(supported[:, lag:], near[:, :-lag])
    return x * supported[:, :, None]


def mask(x: Tensor, most: int) -> Tensor:
    """The mask filter: a pixel with more than `most` events over the whole recording, both polarities together, is taken for
    a defect and silenced."""
    at_least(0, most=most)
    quiet = activity(x) <= most
    return x * quiet[:, None, None].to(x.dtype)


def activity(x: Tensor) -> Tensor:
    """Events of each pixel over all steps and both polarities, [B, H, W]."""
    return x.detach().sum((1, 2))


class Filtered(nn.Module):
    """A model behind a filter, under the same contract. Gradients pass for the events that the filter keeps."""

    def __init__(self, model: nn.Module, filter_: Filter) -> None:
        super().__init__()
        spec = getattr(model, "spec", None)
        if spec is None:
            raise ModelContractError("Expected a model with a spec, got none. Wrap it with trustsnn.wrap first.")
        self.model, self.filter, self.spec = model, filter_, spec

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K] of the filtered events. A stochastic model needs `generator`."""
        given = {} if generator is None else {"generator": generator}
        return self.model(self.filter(x), **given)  # type: ignore[no-any-return]
