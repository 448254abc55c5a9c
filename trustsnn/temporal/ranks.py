"""Rank order decoding (Thorpe and Gautrais 1998): what a neuron makes of the order in which its inputs spike."""

from __future__ import annotations

import torch
from torch import Tensor

from trustsnn.errors import ConfigError


def rank_order_response(times: Tensor, weight: Tensor, modulation: float = 0.9) -> Tensor:
    """sum_i modulation^rank(i) w_i, [B, J], for input spike times [B, I] and weights [I, J]; rank 0 spikes first.

    Among equal times the lower index comes first, as in the encoder "rank-order". An input at infinity does not spike and counts
    nothing. The response is largest where the inputs come in the order of the weights.
    """
    if not 0 < modulation < 1:
        raise ConfigError(f"Expected a modulation in (0, 1), got {modulation}.")
    ranks = times.argsort(dim=1, stable=True).argsort(dim=1)
    return torch.where(times.isfinite(), modulation ** ranks.to(weight.dtype), 0.0) @ weight
