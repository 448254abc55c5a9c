"""What travels between server and clients: a network's floating-point tensors by name, or their change in a round.

Only tensors of floating point travel; counters such as `num_batches_tracked` stay where they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float32]
Arrays = dict[str, Array]


def arrays_of(model: nn.Module, without: Collection[str] = ()) -> Arrays:
    """Copies of the floating-point tensors of `model.state_dict()` by name, float32, but those named in `without`."""
    return {
        name: tensor.detach().cpu().to(torch.float32).numpy().copy()
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and name not in without
    }


def load_arrays(model: nn.Module, arrays: Mapping[str, Array]) -> None:
    """Set these tensors of `model` in place, in the model's own dtype; the others stay. Names and shapes must be the model's."""
    state = model.state_dict()
    with torch.no_grad():
        for name, array in arrays.items():
            state[name].copy_(torch.from_numpy(np.array(array)))


def difference(new: Mapping[str, Array], old: Mapping[str, Array]) -> Arrays:
    """`new` minus `old`, name by name: an update."""
    return {name: np.asarray(new[name] - old[name]) for name in new}


def added(old: Mapping[str, Array], update: Mapping[str, Array], rate: float = 1.0) -> Arrays:
    """`old` plus `rate` times `update`; what the update lacks stays as it was."""
    return {name: np.asarray(value + np.float32(rate) * update[name]) if name in update else value for name, value in old.items()}


def norm(update: Mapping[str, Array]) -> float:
    """The L2 norm over all tensors together, summed in float64; inf or nan where a value is."""
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in update.values())))
