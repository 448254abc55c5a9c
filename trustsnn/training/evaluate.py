"""Clean accuracy of a model on a data set."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from trustsnn.blocks import frozen, is_stochastic, predict
from trustsnn.data import Dataset
from trustsnn.rng import Draws
from trustsnn.statistics import Figure, proportion


def accuracy(model: nn.Module, data: Dataset, *, seed: int = 0, batch_size: int = 256) -> Figure:
    """Correctly classified samples, with the 95 % interval. The figure does not depend on `batch_size`."""
    correct = 0
    with frozen(model):
        for start in range(0, len(data), batch_size):
            rows = np.arange(start, min(start + batch_size, len(data)))
            x, y = data.batch(rows)
            draws = Draws(seed, "predict", tuple(data.ids[i] for i in rows)) if is_stochastic(model) else None
            correct += int((predict(model, torch.from_numpy(x), draws).argmax(1) == torch.from_numpy(y)).sum())
    return proportion(correct, len(data))
