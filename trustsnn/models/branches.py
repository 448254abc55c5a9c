"""Parallel branches of a network and the merge of what they give: residual sums, gates and attention, all without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trustsnn.errors import ConfigError

SCALE = 0.125  # of spiking self-attention, whatever the size of a head, as in the authors' code


def _attention(parts: Sequence[Tensor], heads: int) -> Tensor:
    """(Q K^T) V * .125 without softmax, for each head. The product is taken as Q (K^T V), which is linear in the tokens; on
    spikes all its sums are whole numbers, so that it is the same bits in either order."""
    q, k, v = (part.flatten(2).unflatten(1, (heads, -1)) for part in parts)  # [N, heads, C / heads, tokens]
    found: Tensor = (v @ k.mT) @ q * SCALE
    return found.reshape(parts[0].shape)


class Merge(NamedTuple):
    """How outputs of branches [N, C, H, W] become one.

    branches: how many there are, None for any number. spikes: whether spikes give spikes. together: whether each element
        depends on the same elements of the branches alone.
    """

    description: str
    apply: Callable[[Sequence[Tensor], int], Tensor]
    branches: int | None = None
    spikes: bool = False
    together: bool = True


MERGES = {
    "add": Merge("a + x", lambda parts, heads: reduce(torch.add, parts)),
    "and": Merge("a * x", lambda parts, heads: reduce(torch.mul, parts), spikes=True),
    "iand": Merge("x (1 - a)", lambda parts, heads: parts[1] * (1 - parts[0]), 2, spikes=True),
    "attention": Merge("(Q K^T) V * 0.125 over the tokens (H, W), by heads", _attention, 3, together=False),
}


class Branches(nn.ModuleList):
    """Several sequences of layers that all get the same input, and the merge of their outputs.

    A branch holds what a network holds: stateless layers, neurons, `Branches`. An empty one is the identity. Outputs have the
    shape [N, C, H, W]; a `SpikingNetwork` runs the branches.

    >>> Branches([nn.Conv2d(4, 4, 1)], [], merge="add").merge([torch.ones(1, 4, 2, 2), torch.ones(1, 4, 2, 2)]).sum()
    tensor(32.)

    Args:
        branches: the layers of each; for "iand" first a, then x; for "attention" Q, K, V.
        merge: one of `MERGES`.
        heads: of "attention": each takes its share of the channels.
    """

    def __init__(self, *branches: Iterable[nn.Module], merge: str = "add", heads: int = 1) -> None:
        super().__init__(nn.Sequential(*branch) for branch in branches)
        if merge not in MERGES:
            raise ConfigError(f"Unknown merge {merge!r}. Known: {', '.join(MERGES)}.")
        count = MERGES[merge].branches
        if len(self) != count if count is not None else len(self) < 2:
            raise ConfigError(f"The merge {merge!r} takes {count or 'at least 2'} branches, got {len(self)}.")
        self.how, self.heads = merge, heads

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        """One tensor [N, C, H, W] of the outputs of the branches."""
        return MERGES[self.how].apply(parts, self.heads)

    def extra_repr(self) -> str:
        return f"merge={self.how}" + (f", heads={self.heads}" if self.how == "attention" else "")
