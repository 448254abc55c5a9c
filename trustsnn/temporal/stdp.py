"""Pair-based spike-timing-dependent plasticity through traces (Morrison, Diesmann and Gerstner 2008, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite

import torch
from torch import Tensor

from trustsnn.errors import ConfigError

PAIRINGS = {"all": "every spike pairs with every one before it", "nearest": "every spike pairs with the nearest one before it"}


@dataclass(frozen=True)
class STDP:
    """What a pair of spikes, D > 0 steps apart, does to a weight: up by `up` exp(-D / tau_up) where the input comes first, down by
    `down` exp(-D / tau_down) where it comes last. Spikes of the same step do nothing.

    `pairing`: one of `PAIRINGS`. Time constants are in steps.
    """

    up: float = 0.01
    down: float = 0.012
    tau_up: float = 20.0
    tau_down: float = 20.0
    pairing: str = "all"

    def __post_init__(self) -> None:
        if not (self.tau_up > 0 and self.tau_down > 0 and all(map(isfinite, (self.up, self.down)))):
            raise ConfigError(f"Expected time constants above 0 and finite amplitudes, got {self}.")
        if self.pairing not in PAIRINGS:
            raise ConfigError(f"Expected a pairing of {tuple(PAIRINGS)}, got {self.pairing!r}.")

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """The change of the weights, [B, I, J], after spike trains `before` [T, B, I] of the inputs and `after` [T, B, J] of the neurons,
        0 or 1 each.

        Each neuron has one trace, which decays by exp(-1 / tau) a step; a spike adds 1 to it, or sets it to 1 with "nearest". A
        neuron's spike reads the traces of the inputs, an input's spike those of the neurons.
        """
        if before.dim() != 3 or before.shape[:2] != after.shape[:2]:
            raise ConfigError(
                f"Expected spike trains [T, B, I] and [T, B, J] of equal T and B, got {list(before.shape)} and {list(after.shape)}."
            )
        input_trace, neuron_trace = torch.zeros_like(before[0]), torch.zeros_like(after[0])
        change = before.new_zeros(before.shape[1], before.shape[2], after.shape[2])
        for inputs, neurons in zip(before, after, strict=True):
            input_trace, neuron_trace = input_trace * exp(-1 / self.tau_up), neuron_trace * exp(-1 / self.tau_down)
            change += (
                self.up * input_trace[:, :, None] * neurons[:, None] - self.down * inputs[:, :, None] * neuron_trace[:, None]
            )
            input_trace, neuron_trace = self._add(input_trace, inputs), self._add(neuron_trace, neurons)
        return change

    def _add(self, trace: Tensor, spikes: Tensor) -> Tensor:
        return trace + spikes if self.pairing == "all" else torch.where(spikes > 0, 1.0, trace)
