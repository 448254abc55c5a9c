"""Weights as the memory of an accelerator holds them: whole numbers in two's complement, and one scale a layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.attacks.integrity.search import weight_matrices
from trustsnn.errors import ConfigError


class Bit(NamedTuple):
    """A bit of one weight: its tensor, its place in it, flattened, and its number, 0 for the least significant one."""

    tensor: str
    place: int
    bit: int


class Quantised:
    """A copy of `model` in eval mode whose weight matrices w are held as `bits`-bit whole numbers q in two's complement: w = q s, with
    s = max |w| / (2^(bits-1) - 1) of the layer. Normalisation, biases, leak and threshold stay as they are.

    `model` holds the weights that the whole numbers stand for, and follows every flip.
    """

    def __init__(self, model: nn.Module, bits: int = 8) -> None:
        if type(bits) is not int or not 2 <= bits <= 16:
            raise ConfigError(f"Expected weights of 2 to 16 bits, got {bits!r}.")
        self.model, self.bits = copy.deepcopy(model).eval(), bits
        self.weights = weight_matrices(self.model)
        self.codes: dict[str, Tensor] = {}
        self.scales: dict[str, float] = {}
        largest = 2 ** (bits - 1) - 1
        for name, weight in self.weights.items():
            self.scales[name] = float(weight.detach().abs().max()) / largest or 1.0
            self.codes[name] = torch.round(weight.detach().flatten() / self.scales[name]).clamp(-largest, largest).int()
            self._write(name, slice(None))

    @property
    def size(self) -> int:
        """All bits of all weights."""
        return self.bits * sum(len(codes) for codes in self.codes.values())

    def changes(self, name: str) -> Tensor:
        """By how much the weights of a tensor change if a bit is flipped, [bits, weights]."""
        places = (1 << torch.arange(self.bits))[:, None]
        worth = places.clone()
        worth[-1] = -worth[-1]  # of the sign bit
        is_set = (self.codes[name] & places) != 0
        return torch.where(is_set, -worth, worth) * self.scales[name]

    def flip(self, flips: Sequence[Bit]) -> None:
        """Flip bits in place. Twice the same gives them back."""
        top = 1 << self.bits
        for name, place, bit in flips:
            code = (int(self.codes[name][place]) % top) ^ (1 << bit)
            self.codes[name][place] = code - top if code >= top // 2 else code
            self._write(name, place)

    def weight(self, flip: Bit) -> float:
        """The weight that a bit belongs to, as it is now."""
        return int(self.codes[flip.tensor][flip.place]) * self.scales[flip.tensor]

    def _write(self, name: str, places: slice | int) -> None:
        with torch.no_grad():
            self.weights[name].view(-1)[places] = (self.codes[name][places] * self.scales[name]).to(self.weights[name].dtype)
