"""What gives a layer of neurons its current in the recurrent one-step SNN: LSTMs over the rows and columns of a window."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn


class Sweep(nn.Module):
    """The current [N, outputs, H, W] that a bidirectional LSTM makes of each row (`axis` 3) or column (2) of [N, inputs, H, W].

    A place is one element of the sequence, its channels the features; half the outputs come from each direction. A row sweep
    before a column sweep sees the whole window (ReNet, Visin 2015, arXiv 1505.00393), and weights fit windows of any size.
    """

    def __init__(self, inputs: int, outputs: int, axis: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, outputs // 2, batch_first=True, bidirectional=True)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """The current of a batch of maps."""
        lines = x.movedim(1, 3) if self.axis == 3 else x.permute(0, 3, 2, 1)  # [N, lines, sequence, channels]
        with nullcontext() if self.training else torch.backends.cudnn.flags(enabled=False):  # whose LSTM is for training alone
            swept = self.lstm(lines.flatten(0, 1))[0].unflatten(0, lines.shape[:2])
        return swept.movedim(3, 1) if self.axis == 3 else swept.permute(0, 3, 2, 1)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"axis={self.axis}"
