"""The labels of a batch from its update: the last bias gives them away (iDLG)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trustsnn.attacks.leakage.updates import Update
from trustsnn.errors import ConfigError
from trustsnn.models.network import SpikingNetwork


def inferred_labels(model: SpikingNetwork, update: Update) -> Tensor:
    """Labels [samples], int64, those that are surest first.

    For one sample the gradient of the last layer's bias is softmax - onehot, negative at the label alone (iDLG, Zhao 2020, arXiv
    2001.02610). Of several samples every class below 0 is there; what comes on top is of the class with the lowest gradient, to
    which that label then gives back (1 + 1/K) / B of their sum (after LLG, Wainakh 2022, arXiv 2105.09369). Without a bias the row
    sums of the weights' gradient, whose inputs are not negative, stand for it.

    Raises:
        ConfigError: the network has no linear layer at its end.
    """
    dense = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not dense or dense[-1][1].out_features != model.spec.classes:
        raise ConfigError("Expected a network that ends in a linear layer of its classes: its gradient gives the labels away.")
    name, last = dense[-1]
    given = update.gradients[f"{name}.bias"] if last.bias is not None else update.gradients[f"{name}.weight"].sum(1)
    left = given.detach().double().clone()
    there = torch.nonzero(left < 0).flatten()
    share = float(left[there].sum()) * (1 + 1 / len(left)) / update.samples
    found: list[int] = there[left[there].argsort(stable=True)].tolist()[: update.samples]
    while len(found) < update.samples:
        found.append(int(left.argmin()))
        left[found[-1]] -= share or -1.0
    return torch.tensor(found, dtype=torch.int64)
